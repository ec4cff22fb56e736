# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Prompts of a class name, from a ready set, a mapping or a YAML file (CLIP-AD, prompt ensemble)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import yaml

from anomalib_clipad.clip.prompts import CLASS_NAME_ALIASES, PROMPT_SETS

DEFAULT_PROMPT_SET = "industrial"
DEFAULT_CLASS_NAME = "object"

# A variant number stands alone ("screw_01") or ends a word ("macaroni2"); a digit after a short word is part of a
# name ("usb3").
_VARIANT_NUMBER = re.compile(r"(?:\s+|(?<=[^\W\d]{4}))\d+$")
_LIST_KEYS = ("normal_states", "anomalous_states", "templates")
_MAPPING_KEYS = (*_LIST_KEYS, "class_names", "extends")


@dataclass(frozen=True)
class PromptEnsemble:
    """States and templates that surround a class name, and the words a class name is read as.

    Args:
        normal_states: States of a normal object, each with one ``{}`` for the class name.
        anomalous_states: States of an anomalous object, each with one ``{}`` for the class name.
        templates: Sentences, each with one ``{}`` for the state.
        aliases: Words to use for a class name, beside (and before) the built-in ones. Case is ignored.

    Raises:
        ValueError: If a list is empty or an entry is not a string with exactly one ``{}``.

    Example:
        >>> ensemble = PromptEnsemble(["perfect {}"], ["{} with scratch"], ["a photo of a {}."])
        >>> ensemble.prompts("metal_nut")
        (['a photo of a perfect metal nut.'], ['a photo of a metal nut with scratch.'])
    """

    normal_states: tuple[str, ...]
    anomalous_states: tuple[str, ...]
    templates: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Check every entry, and keep own copies: the caller's lists may change later."""
        for key in _LIST_KEYS:
            object.__setattr__(self, key, _checked_patterns(key, getattr(self, key)))
        object.__setattr__(self, "aliases", _checked_aliases(self.aliases))

    @classmethod
    def from_set(cls, name: str) -> "PromptEnsemble":
        """Make a ready ensemble, named by a key of ``PROMPT_SETS``; ValueError if there is no such set.

        Example:
            >>> normal, anomalous = PromptEnsemble.from_set("industrial").prompts("bottle")
            >>> len(normal), len(anomalous)
            (198, 220)
        """
        lists = _prompt_set("name", name)
        return cls(lists["normal_states"], lists["anomalous_states"], lists["templates"])

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> "PromptEnsemble":
        """Make an ensemble from plain data.

        Args:
            mapping: ``normal_states``, ``anomalous_states`` and ``templates`` (lists of strings), ``class_names`` (a
                mapping of class names to words), and ``extends``, the ready set that gives the lists left out. A list
                that is given replaces the set's list.

        Raises:
            ValueError: If it is not a mapping, a key is unknown, a list is missing and nothing is extended, or an
                entry is malformed.

        Example:
            >>> ensemble = PromptEnsemble.from_mapping({"extends": "industrial", "class_names": {"pcb9": "circuit"}})
            >>> ensemble.prompts("pcb9")[0][0]
            'a cropped photo of a flawless circuit.'
        """
        if not isinstance(mapping, Mapping):
            msg = f"Expected prompts to be a mapping with keys among {list(_MAPPING_KEYS)}, but got {mapping!r}."
            raise ValueError(msg)
        unknown = [key for key in mapping if key not in _MAPPING_KEYS]
        if unknown:
            msg = f"Expected prompts to have keys among {list(_MAPPING_KEYS)}, but got {unknown}."
            raise ValueError(msg)
        base = _prompt_set("extends", mapping["extends"]) if "extends" in mapping else {}
        lists = {**base, **{key: mapping[key] for key in _LIST_KEYS if key in mapping}}
        missing = [key for key in _LIST_KEYS if key not in lists]
        if missing:
            msg = (
                f"Expected prompts to have all of {list(_LIST_KEYS)}, but got none for {missing}. "
                f"Add 'extends: {DEFAULT_PROMPT_SET}' to take them from a ready set: {list(PROMPT_SETS)}."
            )
            raise ValueError(msg)
        return cls(**lists, aliases=mapping.get("class_names", {}))

    @classmethod
    def from_yaml(cls, path: str | PathLike[str]) -> "PromptEnsemble":
        """Make an ensemble from a YAML file with the keys of :meth:`from_mapping`.

        Errors are those of that method; there is also a FileNotFoundError, and a ValueError for what is not YAML.

        In YAML an entry that begins with ``{}`` needs quotes: ``- "{} with scratch"``.
        """
        path = Path(path).expanduser()
        if not path.is_file():
            msg = (
                f"Expected prompts to name an existing YAML file, but got {str(path)!r}, looked for at "
                f"{path.resolve()}. Give an existing file or a ready set: {list(PROMPT_SETS)}."
            )
            raise FileNotFoundError(msg)
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            msg = (
                f"Expected {path} to be valid YAML, but got: {error}. "
                'Quote every entry that begins with {}: - "{} with scratch".'
            )
            raise ValueError(msg) from error
        try:
            return cls.from_mapping(content)
        except ValueError as error:
            msg = f"{error} (in {path})"
            raise ValueError(msg) from error

    def class_words(self, class_name: str) -> str:
        """Read a class name as words; ValueError if it is blank or not a string.

        An alias wins. Otherwise underscores are spaces and a final variant number is dropped. A name without a letter
        (BTech's categories are ``01`` to ``03``) says nothing about the object and is read as "object".

        Example:
            >>> ensemble = PromptEnsemble.from_set("industrial")
            >>> [ensemble.class_words(name) for name in ("metal_nut", "pcb1", "macaroni2", "01")]
            ['metal nut', 'printed circuit board', 'macaroni', 'object']
        """
        if not isinstance(class_name, str) or not class_name.strip():
            msg = (
                f"Expected class_name to be a string that is not blank, but got {class_name!r}. "
                f"Use {DEFAULT_CLASS_NAME!r} where the object is unknown."
            )
            raise ValueError(msg)
        name = class_name.strip().casefold()
        for aliases in (self.aliases, _BUILT_IN_ALIASES):
            if name in aliases:
                return aliases[name]
        words = _VARIANT_NUMBER.sub("", " ".join(class_name.replace("_", " ").split()))
        return words if any(character.isalpha() for character in words) else DEFAULT_CLASS_NAME

    def prompts(self, class_name: str) -> tuple[list[str], list[str]]:
        """Write out the normal and the anomalous prompts of a class, every state in every template."""
        words = self.class_words(class_name)
        return self._filled(self.normal_states, words), self._filled(self.anomalous_states, words)

    def _filled(self, states: tuple[str, ...], words: str) -> list[str]:
        # replace, not format: a class name or a state may hold other braces.
        return [template.replace("{}", state.replace("{}", words)) for state in states for template in self.templates]


def resolve_prompts(
    prompts: str | PathLike[str] | Mapping[str, Any] | PromptEnsemble | None,
) -> PromptEnsemble:
    """Make the ensemble that a user's argument names.

    That is a ready set, a path to a YAML file, a mapping (:meth:`PromptEnsemble.from_mapping`), an ensemble, or
    ``None`` for the industrial set of the paper. Anything else is a ValueError.
    """
    if prompts is None:
        return PromptEnsemble.from_set(DEFAULT_PROMPT_SET)
    if isinstance(prompts, PromptEnsemble):
        return prompts
    if isinstance(prompts, Mapping):
        return PromptEnsemble.from_mapping(prompts)
    if isinstance(prompts, str) and prompts in PROMPT_SETS:
        return PromptEnsemble.from_set(prompts)
    if isinstance(prompts, PathLike) or (isinstance(prompts, str) and re.search(r"[/\\]|\.ya?ml$", prompts)):
        return PromptEnsemble.from_yaml(prompts)
    msg = (
        f"Expected prompts to be one of {list(PROMPT_SETS)}, a path to a .yaml file or a mapping with keys among "
        f"{list(_MAPPING_KEYS)}, but got {prompts!r}."
    )
    raise ValueError(msg)


def _prompt_set(argument: str, name: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(name, str) or name not in PROMPT_SETS:
        msg = f"Expected {argument} to be one of {list(PROMPT_SETS)}, but got {name!r}."
        raise ValueError(msg)
    return PROMPT_SETS[name]


def _checked_patterns(key: str, patterns: Any) -> tuple[str, ...]:
    if not isinstance(patterns, list | tuple) or not patterns:
        msg = f"Expected {key} to be a list with at least one string, but got {patterns!r}."
        raise ValueError(msg)
    content = "state" if key == "templates" else "class name"
    for pattern in patterns:
        if not isinstance(pattern, str) or pattern.count("{}") != 1:
            msg = (
                f"Expected every entry of {key} to be a string with exactly one {{}}, but got {pattern!r}. "
                f"Put {{}} where the {content} goes."
            )
            raise ValueError(msg)
    return tuple(patterns)


def _checked_aliases(aliases: Any) -> dict[str, str]:
    if not isinstance(aliases, Mapping):
        msg = f"Expected class_names to be a mapping of class names to words, but got {aliases!r}."
        raise ValueError(msg)
    for name, words in aliases.items():
        if not isinstance(name, str) or not isinstance(words, str) or not words.strip():
            msg = (
                f"Expected class_names to map strings to words, but got {name!r}: {words!r}. "
                "Quote a name or word that YAML reads as a number."
            )
            raise ValueError(msg)
    return {name.casefold(): words for name, words in aliases.items()}


_BUILT_IN_ALIASES = _checked_aliases(CLASS_NAME_ALIASES)
