# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The text engine on a tiny random CLIP, against prompts encoded one by one."""

import logging
import time
from types import SimpleNamespace

import open_clip
import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import load_file
from torch.nn.functional import normalize

from anomalib_clipad.clip import prompt_encoder
from anomalib_clipad.clip.prompt_encoder import PromptEncoder
from anomalib_clipad.clip.prompt_ensemble import PromptEnsemble
from anomalib_clipad.clip.representative import STRATEGIES, select_representative
from anomalib_clipad.clip.text_engine import TextEngine

PROMPTS = PromptEnsemble(
    ("perfect {}", "{} without any visible flaw"),
    ("broken {}", "{} with scratch", "badly damaged {} with several deep cracks"),
    ("a photo of a {}.", "the {}", "a rather long photo of the {} for visual inspection.", "{}!"),
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    vision = {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1}
    return CLIP(16, vision, {"width": 32, "heads": 4, "layers": 2}).eval()


@pytest.fixture
def backbone(model):
    return SimpleNamespace(model=model, tokenizer=open_clip.tokenize, fingerprint="tiny-0")


@pytest.fixture
def encoded(monkeypatch):
    """Numbers of prompts in the batches that are encoded."""
    batches = []

    def observed(model, tokens):
        batches.append(len(tokens))
        return encode_tokens(model, tokens)

    encode_tokens = prompt_encoder.encode_tokens
    monkeypatch.setattr(prompt_encoder, "encode_tokens", observed)
    return batches


def one_by_one(model, prompts):
    with torch.no_grad():
        return torch.cat([model.encode_text(open_clip.tokenize([prompt]), normalize=True) for prompt in prompts])


class TestTextEmbeddings:
    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_columns_are_the_representatives_of_normal_and_anomalous(self, backbone, strategy):
        params = {"dbscan": {"eps": "auto", "min_samples": 3}}.get(strategy, {})
        actual = TextEngine(backbone, PROMPTS, strategy, params, cache_dir=False).text_embeddings("metal_nut")
        normal, anomalous = PROMPTS.prompts("metal_nut")
        for column, prompts in ((0, normal), (1, anomalous)):
            expected = select_representative(one_by_one(backbone.model, prompts), strategy, **params)
            torch.testing.assert_close(actual[:, column], expected, atol=1e-5, rtol=0)
        assert (actual[:, 0] - actual[:, 1]).abs().max() > 1e-3

    def test_shape_dtype_device_and_length(self, backbone):
        embeddings = TextEngine(backbone, PROMPTS, cache_dir=False).text_embeddings("bottle")
        assert embeddings.shape == (16, 2)
        assert embeddings.dtype == torch.float32
        assert embeddings.device == torch.device("cpu")
        assert not embeddings.requires_grad
        torch.testing.assert_close(embeddings.norm(dim=0), torch.ones(2))

    def test_published_strategy_is_the_default(self, backbone, tmp_path):
        prompts = PromptEnsemble.from_set("industrial")
        default = TextEngine(backbone, prompts, cache_dir=tmp_path)
        named = TextEngine(backbone, prompts, "dbscan", {"eps": 0.5, "min_samples": 15}, cache_dir=tmp_path)
        default.text_embeddings("bottle")
        named.text_embeddings("bottle")
        assert len(list(tmp_path.iterdir())) == 1

    @pytest.mark.parametrize("batch_size", [1, 7, 1000])
    def test_batch_size_does_not_matter_and_the_order_is_kept(self, backbone, encoded, batch_size):
        engine = TextEngine(backbone, PROMPTS, cache_dir=False, batch_size=batch_size)
        normal, anomalous = PROMPTS.prompts("nut")
        embeddings = engine.encoder.encode(normal + anomalous, "nut")
        torch.testing.assert_close(embeddings, one_by_one(backbone.model, normal + anomalous), atol=1e-5, rtol=0)
        assert sum(encoded) == 20
        assert max(encoded) == min(batch_size, 20)

    def test_another_class_gets_its_own_vectors(self, backbone):
        engine = TextEngine(backbone, PROMPTS, "mean", cache_dir=False)
        nut, bottle = engine.text_embeddings("metal_nut"), engine.text_embeddings("bottle")
        assert (nut - bottle).abs().max() > 1e-3
        assert torch.equal(engine.text_embeddings("metal_nut"), nut)

    def test_autocast_of_the_caller_changes_nothing(self, backbone):
        expected = TextEngine(backbone, PROMPTS, "mean", cache_dir=False).text_embeddings("nut")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = TextEngine(backbone, PROMPTS, "mean", cache_dir=False).text_embeddings("nut")
        assert torch.equal(actual, expected)

    def test_prompts_that_fill_the_context_are_logged(self, backbone, caplog):
        backbone.tokenizer = lambda prompts: open_clip.tokenize(prompts, context_length=12)
        engine = TextEngine(backbone, PROMPTS, "mean", cache_dir=False)
        engine.text_embeddings("very_long_name_of_an_object")
        assert "fill the text tower's context of 12 tokens" in caplog.text

    @pytest.mark.parametrize("cached", [False, True])
    def test_vectors_that_nearly_coincide_are_logged_with_class_and_states(self, backbone, tmp_path, caplog, cached):
        same = PromptEnsemble(("perfect {}",), ("perfect {}",), ("a photo of a {}.",))
        if cached:
            TextEngine(backbone, same, "mean", cache_dir=tmp_path).text_embeddings("nut")
            caplog.clear()
        engine = TextEngine(backbone, same, "mean", cache_dir=tmp_path)
        for _ in range(2):
            engine.text_embeddings("nut")
        assert len(caplog.messages) == 1
        assert "The text vectors of 'nut' are nearly the same (cosine 1.000000) for the normal states (perfect {})" in (
            caplog.text
        )

    def test_vectors_that_differ_are_not_logged(self, backbone, caplog):
        TextEngine(backbone, PROMPTS, "mean", cache_dir=False).text_embeddings("nut")
        assert not caplog.messages

    def test_prompts_that_fit_are_not_logged(self, backbone, caplog):
        with caplog.at_level(logging.WARNING):
            TextEngine(backbone, PROMPTS, "mean", cache_dir=False).text_embeddings("nut")
        assert not caplog.records


class TestMemory:
    def test_a_class_is_encoded_once(self, backbone, encoded):
        engine = TextEngine(backbone, PROMPTS, "mean", cache_dir=False)
        first = engine.text_embeddings("pcb1")
        assert encoded == [20]
        assert torch.equal(engine.text_embeddings("pcb1"), first)
        # Other spellings of the same words are the same prompts.
        assert torch.equal(engine.text_embeddings("pcb2"), first)
        assert encoded == [20]

    def test_result_belongs_to_the_caller(self, backbone):
        engine = TextEngine(backbone, PROMPTS, "mean", cache_dir=False)
        first = engine.text_embeddings("nut")
        expected = first.clone()
        first.zero_()
        assert torch.equal(engine.text_embeddings("nut"), expected)

    def test_another_fingerprint_is_encoded_again(self, backbone, encoded):
        engine = TextEngine(backbone, PROMPTS, "mean", cache_dir=False)
        engine.text_embeddings("nut")
        backbone.fingerprint = "tiny-1"
        engine.text_embeddings("nut")
        assert encoded == [20, 20]


class TestTries:
    """Other words than the engine's own."""

    OTHER = PromptEnsemble(PROMPTS.normal_states, ("broken {}", "torn {}"), PROMPTS.templates)

    @pytest.mark.parametrize("strategy", ["mean", "pca", "dbscan"])
    def test_vectors_are_those_of_an_engine_of_these_words(self, backbone, strategy):
        engine = TextEngine(backbone, PROMPTS, strategy, cache_dir=False)
        own = engine.text_embeddings("nut")
        tried = engine.text_embeddings("nut", self.OTHER, tried=True)

        expected = TextEngine(backbone, self.OTHER, strategy, cache_dir=False).text_embeddings("nut")
        torch.testing.assert_close(tried, expected, atol=1e-6, rtol=0)
        assert torch.equal(engine.text_embeddings("nut"), own)

    def test_only_prompts_of_new_states_are_encoded(self, backbone, encoded):
        engine = TextEngine(backbone, PROMPTS, "mean", cache_dir=False)
        engine.text_embeddings("nut")
        engine.text_embeddings("nut", self.OTHER, tried=True)
        assert encoded == [5 * 4, 1 * 4]  # states by templates

    def test_they_are_read_from_the_disk_and_not_left_there(self, backbone, encoded, tmp_path):
        TextEngine(backbone, self.OTHER, "mean", cache_dir=tmp_path).text_embeddings("nut")
        (file,) = tmp_path.iterdir()
        count = len(encoded)
        engine = TextEngine(backbone, PROMPTS, "mean", cache_dir=tmp_path)

        engine.text_embeddings("nut", self.OTHER, tried=True)
        assert len(encoded) == count
        engine.text_embeddings("bolt", self.OTHER, tried=True)
        engine.text_embeddings("bolt", tried=True)
        assert list(tmp_path.iterdir()) == [file]

        engine.text_embeddings("bolt")
        assert len(list(tmp_path.iterdir())) == 2

    def test_a_bounded_number_of_prompts_is_kept(self, backbone, encoded, monkeypatch):
        monkeypatch.setattr(prompt_encoder, "KEPT_PROMPTS", 12)
        encoder = PromptEncoder(backbone)
        prompts = [f"a photo of a {word}." for word in "abcdefghijklmnopqrst"]
        torch.testing.assert_close(encoder.embeddings(prompts, "x"), one_by_one(backbone.model, prompts))
        torch.testing.assert_close(encoder.embeddings(prompts[::-1], "x"), one_by_one(backbone.model, prompts[::-1]))
        assert encoded == [20, 8]  # twelve were kept
        encoder.embeddings(prompts[:8], "x")
        assert encoded == [20, 8]


class TestDisk:
    def test_another_engine_reads_what_one_wrote(self, backbone, encoded, tmp_path):
        first = TextEngine(backbone, PROMPTS, "mean", cache_dir=tmp_path).text_embeddings("nut")
        second = TextEngine(backbone, PROMPTS, "mean", cache_dir=str(tmp_path)).text_embeddings("nut")
        assert torch.equal(first, second)
        assert encoded == [20]

    def test_everything_that_matters_makes_another_entry(self, backbone, encoded, tmp_path):
        other_weights = SimpleNamespace(**{**vars(backbone), "fingerprint": "tiny-1"})
        other_states = PromptEnsemble(("fine {}",), PROMPTS.anomalous_states, PROMPTS.templates)
        swapped = PromptEnsemble(PROMPTS.anomalous_states, PROMPTS.normal_states, PROMPTS.templates)
        variants = [
            (backbone, PROMPTS, "mean", None, "nut"),
            (backbone, PROMPTS, "mean", None, "bolt"),
            (backbone, PROMPTS, "pca", None, "nut"),
            (backbone, PROMPTS, "kde", None, "nut"),
            (backbone, PROMPTS, "kde", {"bandwidth": 0.4}, "nut"),
            (other_weights, PROMPTS, "mean", None, "nut"),
            (backbone, other_states, "mean", None, "nut"),
            (backbone, swapped, "mean", None, "nut"),
        ]
        for count, (engine_backbone, prompts, strategy, params, class_name) in enumerate(variants, start=1):
            TextEngine(engine_backbone, prompts, strategy, params, cache_dir=tmp_path).text_embeddings(class_name)
            assert len(list(tmp_path.iterdir())) == count == len(encoded)

    def test_precision_makes_another_entry(self, backbone, tmp_path):
        engine = TextEngine(backbone, PROMPTS, "mean", cache_dir=tmp_path)
        engine.text_embeddings("nut")
        try:
            backbone.model.to(torch.bfloat16)
            engine.text_embeddings("nut")
        finally:
            backbone.model.float()
        assert len(list(tmp_path.iterdir())) == 2

    def test_corrupt_file_is_encoded_again_and_rewritten(self, backbone, encoded, tmp_path, caplog):
        expected = TextEngine(backbone, PROMPTS, "mean", cache_dir=tmp_path).text_embeddings("nut")
        (path,) = tmp_path.iterdir()
        path.write_bytes(path.read_bytes()[:-5])
        assert torch.equal(TextEngine(backbone, PROMPTS, "mean", cache_dir=tmp_path).text_embeddings("nut"), expected)
        assert encoded == [20, 20]
        assert torch.equal(load_file(path)["text_embeddings"], expected)
        assert "Ignoring unreadable" in caplog.text

    def test_default_folder_follows_the_environment(self, backbone, tmp_path, monkeypatch):
        monkeypatch.setenv("ANOMALIB_CLIPAD_CACHE", str(tmp_path))
        TextEngine(backbone, PROMPTS, "mean").text_embeddings("nut")
        assert len(list((tmp_path / "text_embeddings").glob("*.safetensors"))) == 1

    def test_false_writes_nothing(self, backbone, tmp_path, monkeypatch):
        monkeypatch.setenv("ANOMALIB_CLIPAD_CACHE", str(tmp_path))
        TextEngine(backbone, PROMPTS, "mean", cache_dir=False).text_embeddings("nut")
        assert not list(tmp_path.iterdir())

    def test_folder_that_cannot_be_written_is_no_obstacle(self, backbone, tmp_path, caplog):
        (tmp_path / "file").touch()
        engine = TextEngine(backbone, PROMPTS, "mean", cache_dir=tmp_path / "file" / "cache")
        expected = TextEngine(backbone, PROMPTS, "mean", cache_dir=False).text_embeddings("nut")
        assert torch.equal(engine.text_embeddings("nut"), expected)
        assert "are not cached in" in caplog.text


class TestProgress:
    def test_short_work_shows_nothing(self, backbone, capsys):
        TextEngine(backbone, PROMPTS, "mean", cache_dir=False, batch_size=1).text_embeddings("nut")
        assert capsys.readouterr().err == ""

    def test_long_work_shows_a_bar(self, backbone, capsys, monkeypatch):
        def slow(model, tokens):
            time.sleep(0.15)  # tqdm redraws at most every 0.1 s
            return torch.eye(len(tokens), 16)

        monkeypatch.setattr(prompt_encoder, "encode_tokens", slow)
        monkeypatch.setattr(prompt_encoder, "_PROGRESS_DELAY_S", 0.1)
        TextEngine(backbone, PROMPTS, "mean", cache_dir=False, batch_size=10).text_embeddings("metal_nut")
        assert "Encoding prompts for 'metal nut'" in capsys.readouterr().err


class TestErrors:
    def test_bad_strategy_is_refused_at_once(self, backbone):
        with pytest.raises(ValueError, match=r"Expected strategy to be one of .*'dbscan'.*, but got 'median'"):
            TextEngine(backbone, PROMPTS, "median", cache_dir=False)

    def test_bad_parameter_is_refused_at_once(self, backbone):
        with pytest.raises(ValueError, match=r"to be among \['eps', 'min_samples'\], but got \['bandwidth'\]"):
            TextEngine(backbone, PROMPTS, "dbscan", {"bandwidth": 1}, cache_dir=False)

    @pytest.mark.parametrize("batch_size", [0, -1])
    def test_bad_batch_size_is_refused(self, backbone, batch_size):
        with pytest.raises(ValueError, match=f"Expected batch_size to be at least 1, but got {batch_size}"):
            TextEngine(backbone, PROMPTS, cache_dir=False, batch_size=batch_size)

    def test_blank_class_name_is_refused(self, backbone):
        with pytest.raises(ValueError, match="Expected class_name to be a string that is not blank"):
            TextEngine(backbone, PROMPTS, cache_dir=False).text_embeddings(" ")

    def test_broken_weights_are_refused_and_nothing_is_written(self, backbone, tmp_path):
        backbone.model = SimpleNamespace(
            parameters=lambda: iter([torch.zeros(1)]),
            encode_text=lambda tokens: normalize(torch.full((len(tokens), 16), float("nan"))),
        )
        with pytest.raises(ValueError, match="to be finite, but got NaN or infinity in 8 of 8 prompts"):
            TextEngine(backbone, PROMPTS, cache_dir=tmp_path).text_embeddings("nut")
        assert not list(tmp_path.iterdir())
