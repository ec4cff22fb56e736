# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Prompt ensembles from sets, mappings and files, and the messages for malformed ones."""

import copy
import pickle
import re

import pytest

from anomalib_clipad.clip.prompt_ensemble import PromptEnsemble, resolve_prompts
from anomalib_clipad.clip.prompts import CLASS_NAME_ALIASES, PROMPT_SETS

SMALL = {
    "normal_states": ["perfect {}"],
    "anomalous_states": ["broken {}", "{} with dent"],
    "templates": ["a photo of a {}.", "the {}!"],
}


def small(**changes):
    return PromptEnsemble.from_mapping({**SMALL, **changes})


class TestPrompts:
    def test_every_state_meets_every_template(self):
        normal, anomalous = small().prompts("metal_nut")
        assert normal == ["a photo of a perfect metal nut.", "the perfect metal nut!"]
        assert sorted(anomalous) == sorted(
            [
                "a photo of a broken metal nut.",
                "the broken metal nut!",
                "a photo of a metal nut with dent.",
                "the metal nut with dent!",
            ],
        )

    def test_industrial_set_gives_198_and_220_different_prompts(self):
        normal, anomalous = PromptEnsemble.from_set("industrial").prompts("bottle")
        assert (len(set(normal)), len(set(anomalous))) == (198, 220)
        assert "a photo of a bottle with scratch." in anomalous
        assert not any("{" in prompt for prompt in normal + anomalous)

    def test_braces_in_names_are_kept(self):
        normal, _ = small(class_names={"odd": "part {7} {}"}).prompts("odd")
        assert normal[0] == "a photo of a perfect part {7} {}."


class TestClassWords:
    @pytest.mark.parametrize(
        ("class_name", "words"),
        [
            ("bottle", "bottle"),
            ("metal_nut", "metal nut"),
            ("pipe_fryum", "pipe fryum"),
            ("macaroni1", "macaroni"),
            ("macaroni2", "macaroni"),
            ("transistor1", "transistor"),
            ("capsules", "capsules"),
            ("screw_01", "screw"),
            ("usb3", "usb3"),
            ("m8_bolt", "m8 bolt"),
            ("  juice__bottle ", "juice bottle"),
            ("01", "object"),
            ("_", "object"),
            ("pcb1", "printed circuit board"),
            ("PCB4", "printed circuit board"),
            ("HeadCT", "head ct"),
            ("BrainMRI", "brain ct"),
            ("ISIC", "skin"),
            ("CVC-ClinicDB", "colon"),
        ],
    )
    def test_names_are_read_as_words(self, class_name, words):
        assert small().class_words(class_name) == words

    def test_own_alias_wins_over_built_in(self):
        assert small(class_names={"pcb1": "circuit"}).class_words("PCB1") == "circuit"
        assert small(class_names={"pcb1": "circuit"}).class_words("pcb2") == "printed circuit board"

    @pytest.mark.parametrize("name", CLASS_NAME_ALIASES)
    def test_built_in_aliases_differ_from_the_rule(self, name):
        by_rule = re.sub(r"\d+$", "", name.replace("_", " "))
        assert CLASS_NAME_ALIASES[name] != by_rule

    @pytest.mark.parametrize("class_name", ["", "  ", None, 3])
    def test_blank_name_is_refused(self, class_name):
        with pytest.raises(
            ValueError, match=r"Expected class_name to be a string that is not blank, but got .*'object'"
        ):
            small().class_words(class_name)


class TestConstruction:
    def test_lists_are_copied_and_the_ensemble_is_plain_data(self):
        states = ["perfect {}"]
        ensemble = PromptEnsemble(states, ["broken {}"], ["a {}"])
        states.append("{} changed")
        assert ensemble.normal_states == ("perfect {}",)
        assert pickle.loads(pickle.dumps(ensemble)) == copy.deepcopy(ensemble) == ensemble
        assert hash(ensemble) == hash(copy.deepcopy(ensemble))

    def test_extends_gives_only_what_is_left_out(self):
        ensemble = PromptEnsemble.from_mapping({"extends": "industrial", "normal_states": ["intact {}"]})
        assert ensemble.normal_states == ("intact {}",)
        assert ensemble.anomalous_states == PROMPT_SETS["industrial"]["anomalous_states"]
        assert ensemble.templates == PROMPT_SETS["industrial"]["templates"]

    @pytest.mark.parametrize("key", ["normal_states", "anomalous_states", "templates"])
    @pytest.mark.parametrize("entry", ["broken bottle", "{} and {}", "", 3, {}])
    def test_entry_without_exactly_one_place_is_refused(self, key, entry):
        with pytest.raises(ValueError, match=rf"Expected every entry of {key} to be a string with exactly one {{}}"):
            small(**{key: ["fine {}", entry]})

    @pytest.mark.parametrize("key", ["normal_states", "anomalous_states", "templates"])
    @pytest.mark.parametrize("entries", [[], "broken {}", None, {"a": "{}"}])
    def test_anything_but_a_filled_list_is_refused(self, key, entries):
        with pytest.raises(ValueError, match=f"Expected {key} to be a list with at least one string, but got"):
            small(**{key: entries})

    def test_unknown_key_is_refused_with_the_valid_ones(self):
        with pytest.raises(ValueError, match=r"keys among \['normal_states', .*'extends'\], but got \['states'\]"):
            small(states=["{}"])

    def test_missing_list_is_refused_and_names_the_way_out(self):
        with pytest.raises(ValueError, match=r"but got none for \['templates'\].*'extends: industrial'"):
            PromptEnsemble.from_mapping({key: SMALL[key] for key in ("normal_states", "anomalous_states")})

    @pytest.mark.parametrize("aliases", [["pcb1"], "pcb1", None])
    def test_aliases_that_are_no_mapping_are_refused(self, aliases):
        with pytest.raises(ValueError, match="Expected class_names to be a mapping of class names to words, but got"):
            small(class_names=aliases)

    @pytest.mark.parametrize("aliases", [{1: "part"}, {"a": 1}, {"a": " "}])
    def test_aliases_that_are_no_words_are_refused(self, aliases):
        with pytest.raises(ValueError, match="Expected class_names to map strings to words, but got"):
            small(class_names=aliases)

    def test_unknown_set_is_refused_with_the_valid_ones(self):
        with pytest.raises(ValueError, match=r"Expected extends to be one of \['industrial', 'medical'\], but got 'x'"):
            small(extends="x")
        with pytest.raises(ValueError, match=r"Expected name to be one of \['industrial', 'medical'\], but got 'x'"):
            PromptEnsemble.from_set("x")


class TestYaml:
    def test_file_gives_what_it_holds(self, tmp_path):
        path = tmp_path / "prompts.yaml"
        path.write_text(
            "extends: medical\n"
            "normal_states:\n"
            "  - intact {}\n"
            '  - "{} without wear"\n'
            "class_names:\n"
            "  gear7: gear wheel\n",
            encoding="utf-8",
        )
        ensemble = PromptEnsemble.from_yaml(path)
        assert ensemble.normal_states == ("intact {}", "{} without wear")
        assert ensemble.templates == PROMPT_SETS["medical"]["templates"]
        assert ensemble.class_words("gear7") == "gear wheel"
        assert resolve_prompts(str(path)) == resolve_prompts(path) == ensemble

    def test_missing_file_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "none.yaml"))):
            PromptEnsemble.from_yaml(tmp_path / "none.yaml")

    def test_unquoted_braces_get_advice(self, tmp_path):
        path = tmp_path / "prompts.yaml"
        path.write_text("normal_states:\n  - {} without wear\n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"valid YAML, but got[\s\S]*Quote every entry that begins with {}"):
            PromptEnsemble.from_yaml(path)

    def test_file_that_is_no_text_is_refused(self, tmp_path):
        path = tmp_path / "prompts.yaml"
        path.write_bytes(b"\xff\xfe\xfa")
        with pytest.raises(ValueError, match="to be valid YAML, but got"):
            PromptEnsemble.from_yaml(path)

    @pytest.mark.parametrize("content", ["", "- a {}\n", "text"])
    def test_file_without_a_mapping_is_refused(self, tmp_path, content):
        path = tmp_path / "prompts.yaml"
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=r"Expected prompts to be a mapping with keys among .*prompts.yaml"):
            PromptEnsemble.from_yaml(path)

    def test_error_in_the_content_names_the_file(self, tmp_path):
        path = tmp_path / "mine.yaml"
        path.write_text("extends: industrial\ntemplates: [a photo]\n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"entry of templates .*'a photo'.*state goes.*mine.yaml"):
            PromptEnsemble.from_yaml(path)

    def test_file_cannot_execute_code(self, tmp_path):
        path = tmp_path / "prompts.yaml"
        path.write_text("extends: !!python/object/apply:os.getcwd []\n", encoding="utf-8")
        with pytest.raises(ValueError, match="could not determine a constructor"):
            PromptEnsemble.from_yaml(path)


class TestResolve:
    def test_none_is_the_industrial_set(self):
        assert resolve_prompts(None) == resolve_prompts("industrial") == PromptEnsemble.from_set("industrial")

    def test_ensemble_and_mapping_are_accepted(self):
        assert resolve_prompts(small()) == resolve_prompts(SMALL)

    @pytest.mark.parametrize("prompts", ["medicine", "", 3])
    def test_anything_else_is_refused_with_the_valid_sets(self, prompts):
        with pytest.raises(ValueError, match=r"Expected prompts to be one of \['industrial', 'medical'\], a path"):
            resolve_prompts(prompts)

    def test_path_to_nothing_is_a_missing_file(self):
        with pytest.raises(FileNotFoundError, match=r"existing YAML file, but got 'my/prompts'.*\['industrial'"):
            resolve_prompts("my/prompts")

    def test_argument_parser_passes_all_forms_through(self):
        from jsonargparse import ArgumentParser

        def model(prompts: str | dict | None = None) -> PromptEnsemble:
            return resolve_prompts(prompts)

        parser = ArgumentParser()
        parser.add_function_arguments(model)
        assert model(**parser.parse_args([])) == resolve_prompts(None)
        assert model(**parser.parse_args(["--prompts=medical"])) == resolve_prompts("medical")
        assert model(**parser.parse_object({"prompts": SMALL})) == resolve_prompts(SMALL)
