# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The disk cache: what it returns, what it ignores, and that its trouble is never the user's."""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from anomalib_clipad.clip.text_cache import TextCache, cache_key, resolve_cache_dir

DESCRIPTION = {"backbone": "tiny", "strategy": "mean"}


@pytest.fixture
def embeddings():
    return torch.nn.functional.normalize(torch.randn(16, 2, generator=torch.manual_seed(0)), dim=0)


@pytest.fixture
def cache(tmp_path):
    return TextCache(tmp_path / "not" / "there yet")


class TestRoundTrip:
    def test_what_is_saved_is_loaded(self, cache, embeddings):
        cache.save(DESCRIPTION, embeddings)
        assert torch.equal(cache.load(DESCRIPTION), embeddings)

    def test_nothing_saved_is_nothing_loaded_or_logged(self, cache, caplog):
        assert cache.load(DESCRIPTION) is None
        assert not caplog.records

    def test_another_description_is_another_file(self, cache, embeddings):
        cache.save(DESCRIPTION, embeddings)
        assert cache.load({**DESCRIPTION, "strategy": "pca"}) is None
        assert cache.path(DESCRIPTION) != cache.path({**DESCRIPTION, "backbone": "other"})

    def test_key_does_not_depend_on_the_order(self):
        assert cache_key(DESCRIPTION) == cache_key(dict(reversed(DESCRIPTION.items())))

    def test_file_says_what_it_holds(self, cache, embeddings):
        cache.save(DESCRIPTION, embeddings)
        with safe_open(cache.path(DESCRIPTION), framework="pt") as file:
            assert file.metadata() == DESCRIPTION

    def test_only_the_file_is_left(self, cache, embeddings):
        cache.save(DESCRIPTION, embeddings)
        assert list(cache.folder.iterdir()) == [cache.path(DESCRIPTION)]

    def test_loaded_tensor_outlives_the_file(self, cache, embeddings):
        cache.save(DESCRIPTION, embeddings)
        loaded = cache.load(DESCRIPTION)
        cache.path(DESCRIPTION).write_bytes(b"\0" * cache.path(DESCRIPTION).stat().st_size)
        assert torch.equal(loaded, embeddings)

    def test_without_a_folder_nothing_is_kept(self, embeddings):
        cache = TextCache(None)
        cache.save(DESCRIPTION, embeddings)
        assert cache.load(DESCRIPTION) is None


class TestBadFiles:
    @pytest.mark.parametrize("content", [b"", b"junk", b"\xff" * 64, b"\x80\x04K\x01."])
    def test_corrupt_file_is_ignored_and_rewritten(self, cache, embeddings, caplog, content):
        cache.save(DESCRIPTION, embeddings)
        cache.path(DESCRIPTION).write_bytes(content)
        self.assert_ignored_and_rewritten(cache, embeddings, caplog, "Ignoring unreadable text embeddings")

    @pytest.mark.parametrize("kept", [0.1, 0.5, 0.95])
    def test_truncated_file_is_ignored_and_rewritten(self, cache, embeddings, caplog, kept):
        cache.save(DESCRIPTION, embeddings)
        content = cache.path(DESCRIPTION).read_bytes()
        cache.path(DESCRIPTION).write_bytes(content[: int(len(content) * kept)])
        self.assert_ignored_and_rewritten(cache, embeddings, caplog, "Ignoring unreadable text embeddings")

    @pytest.mark.parametrize("metadata", [None, {}, {"backbone": "tiny"}, {**DESCRIPTION, "strategy": "pca"}])
    def test_foreign_file_is_ignored_and_rewritten(self, cache, embeddings, caplog, metadata):
        cache.folder.mkdir(parents=True)
        save_file({"text_embeddings": embeddings}, cache.path(DESCRIPTION), metadata)
        self.assert_ignored_and_rewritten(cache, embeddings, caplog, "it was not written for these text embeddings")

    def test_file_without_the_tensor_is_ignored_and_rewritten(self, cache, embeddings, caplog):
        cache.folder.mkdir(parents=True)
        save_file({"weights": embeddings}, cache.path(DESCRIPTION), DESCRIPTION)
        self.assert_ignored_and_rewritten(cache, embeddings, caplog, "Ignoring unreadable text embeddings")

    @pytest.mark.parametrize(
        "change",
        [
            lambda x: x.T,
            lambda x: x[:, 0],
            lambda x: x[None],
            lambda x: x[:0],
            lambda x: x.double(),
            lambda x: 2 * x,
            lambda x: x * float("nan"),
        ],
    )
    def test_wrong_tensor_is_ignored_and_rewritten(self, cache, embeddings, caplog, change):
        cache.folder.mkdir(parents=True)
        save_file({"text_embeddings": change(embeddings).contiguous()}, cache.path(DESCRIPTION), DESCRIPTION)
        self.assert_ignored_and_rewritten(cache, embeddings, caplog, "expected unit columns of shape (C, 2)")

    @staticmethod
    def assert_ignored_and_rewritten(cache, embeddings, caplog, message):
        with caplog.at_level(logging.WARNING):
            assert cache.load(DESCRIPTION) is None
        assert message in caplog.text
        assert str(cache.path(DESCRIPTION)) in caplog.text
        cache.save(DESCRIPTION, embeddings)
        assert torch.equal(cache.load(DESCRIPTION), embeddings)


class TestBadFolders:
    def test_folder_that_cannot_be_made_is_logged(self, tmp_path, embeddings, caplog):
        (tmp_path / "file").write_text("in the way")
        cache = TextCache(tmp_path / "file" / "cache")
        cache.save(DESCRIPTION, embeddings)
        assert "are not cached in" in caplog.text
        assert cache.load(DESCRIPTION) is None

    def test_failed_write_leaves_the_old_file_and_no_other(self, cache, embeddings, caplog, monkeypatch):
        cache.save(DESCRIPTION, embeddings)

        def full_disk(self, data):
            with self.open("wb") as file:
                file.write(data[:10])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full_disk)
        cache.save(DESCRIPTION, -embeddings)
        assert "No space left on device" in caplog.text
        assert list(cache.folder.iterdir()) == [cache.path(DESCRIPTION)]
        assert torch.equal(cache.load(DESCRIPTION), embeddings)

    def test_file_that_may_not_be_replaced_is_logged(self, cache, embeddings, caplog):
        cache.path(DESCRIPTION).mkdir(parents=True)
        (cache.path(DESCRIPTION) / "child").touch()
        assert cache.load(DESCRIPTION) is None
        cache.save(DESCRIPTION, embeddings)
        assert "Ignoring unreadable" in caplog.text
        assert "are not cached in" in caplog.text
        assert list(cache.folder.iterdir()) == [cache.path(DESCRIPTION)]


def test_writers_and_readers_may_share_a_folder(tmp_path, caplog):
    # Threads, each with a cache of its own, meet in the file system as processes do, without their start-up time.
    ones = torch.nn.functional.normalize(torch.ones(20_000, 2), dim=0)

    def write(sign):
        for _ in range(40):
            TextCache(tmp_path).save(DESCRIPTION, sign * ones)

    with ThreadPoolExecutor() as pool:
        writers = [pool.submit(write, sign) for sign in (1, -1)]
        loaded = []
        while not all(writer.done() for writer in writers):
            loaded.append(TextCache(tmp_path).load(DESCRIPTION))
    loaded.append(TextCache(tmp_path).load(DESCRIPTION))
    assert [writer.exception() for writer in writers] == [None, None]
    assert not caplog.records
    # Each read sees one writer's file, whole.
    assert all(x is None or torch.equal(x, x[0, 0].sign() * ones) for x in loaded)
    assert loaded[-1] is not None
    assert len(list(tmp_path.iterdir())) == 1


class TestCacheDir:
    @pytest.fixture(autouse=True)
    def _clean_environment(self, monkeypatch, tmp_path):
        monkeypatch.delenv("ANOMALIB_CLIPAD_CACHE", raising=False)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))

    def test_default_is_in_the_home(self, tmp_path):
        assert resolve_cache_dir(None) == tmp_path / ".cache" / "anomalib_clipad" / "text_embeddings"

    def test_xdg_moves_it(self, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
        assert resolve_cache_dir(None) == Path("/xdg/anomalib_clipad/text_embeddings")

    @pytest.mark.parametrize("value", ["", "relative/path"])
    def test_xdg_that_is_not_absolute_is_ignored(self, monkeypatch, tmp_path, value):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert resolve_cache_dir(None) == tmp_path / ".cache" / "anomalib_clipad" / "text_embeddings"

    def test_own_variable_wins(self, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
        monkeypatch.setenv("ANOMALIB_CLIPAD_CACHE", "/own")
        assert resolve_cache_dir(None) == Path("/own/text_embeddings")

    def test_argument_wins(self, monkeypatch, tmp_path):
        monkeypatch.setenv("ANOMALIB_CLIPAD_CACHE", "/own")
        assert resolve_cache_dir("/mine") == resolve_cache_dir(Path("/mine")) == Path("/mine")
        assert resolve_cache_dir("~/mine") == tmp_path / "mine"

    def test_false_keeps_nothing(self):
        assert resolve_cache_dir(False) is None

    def test_user_without_a_home_gets_no_cache(self, monkeypatch, caplog):
        def no_home():
            msg = "Could not determine home directory."
            raise RuntimeError(msg)

        monkeypatch.setattr(Path, "home", no_home)
        assert resolve_cache_dir(None) is None
        assert "Set ANOMALIB_CLIPAD_CACHE to a folder" in caplog.text

    @pytest.mark.parametrize("value", [True, "", 3])
    def test_anything_else_is_refused(self, value):
        with pytest.raises(ValueError, match=r"Expected text_cache_dir to be a path, None .* or False .*, but got"):
            resolve_cache_dir(value)
