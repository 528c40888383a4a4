# SPDX-License-Identifier: Apache-2.0
"""MONAI's ConfigWorkflow, made to refuse misspelled overrides."""

import contextlib
import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from pydoc import locate
from typing import Any

from monai.bundle import ConfigComponent, ConfigParser, ConfigWorkflow, ReferenceResolver
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS

from monai_n2v.bundle.resources import nearest

_OF_WORKFLOW = inspect.signature(ConfigWorkflow).parameters.keys() - {"override"}
_OF_EVERY_COMPONENT = ("_disabled_", "_requires_", "_desc_", "_mode_")


@contextlib.contextmanager
def unwrapped() -> Iterator[None]:
    """Raise what went wrong alone, without the errors of several lines that MONAI wraps around it."""
    fault: BaseException | None = None
    try:
        yield
    except RuntimeError as error:
        fault = error
        while type(fault) is RuntimeError and fault.__cause__ is not None:
            fault = fault.__cause__
        if fault is error:
            raise
    if fault is not None:
        raise fault.with_traceback(None) from None


class N2VWorkflow(ConfigWorkflow):
    """Run a bundle's config as MONAI does, refusing overrides it would ignore.

    ``monai.bundle run --epoch 5`` adds a key ``epoch`` that nothing reads, and trains for the default number of epochs.
    Here it is an error that names ``epochs``. MONAI also wraps every error into errors of its own, which end on top.
    Here the one that says what is wrong is raised alone.

    Use it as ``python -m monai.bundle run_workflow --workflow_name monai_n2v.bundle.N2VWorkflow --config_file ...``.

    Args:
        config_file: one or several; the later ones are laid over the earlier.
        tracking: ``"mlflow"``, or a file of tracking settings.
        options: other arguments of ``ConfigWorkflow``, such as ``meta_file`` or ``workflow_type``, and config entries
            by id, such as ``lr`` or ``train#trainer#max_epochs``; see `check_overrides`.

    Raises:
        ValueError: for an override of an unknown key.
        FileNotFoundError: for a config file that does not exist.
    """

    def __init__(
        self, config_file: str | Sequence[str], tracking: str | dict[str, Any] | None = None, **options: Any
    ) -> None:
        overrides = {name: value for name, value in options.items() if name not in _OF_WORKFLOW}
        check_overrides(ConfigParser.load_config_files(config_file), overrides, _tracking_keys(tracking))
        super().__init__(config_file, tracking=tracking, **options)

    def initialize(self) -> Any:
        """Initialize the config."""
        with unwrapped():
            return super().initialize()

    def get(self, key: str) -> Any:
        """A component of the config, made when it is first asked for; what goes wrong is told in one sentence."""
        with unwrapped():
            return self.parser.get_parsed_content(key)

    def run(self) -> Any:
        """Run the config."""
        with unwrapped():
            return super().run()


def check_overrides(config: dict[str, Any], overrides: Mapping[str, Any], allowed: Collection[str] = ()) -> None:
    """Refuse overrides that a run would ignore.

    A key must be in the config, at any depth, or be new where something reads it: an argument that the ``_target_``
    beside it takes, or a key that the config or another override refers to as ``@key``. Metadata (``_meta_``) is free.

    Args:
        config: the merged config; unchanged.
        overrides: values by id, with ``#`` or ``::`` between the levels, in the order they are applied.
        allowed: further keys.

    Raises:
        ValueError: for any other key, naming the nearest.
    """
    parser = ConfigParser(_outline(config))
    allowed = {*allowed, *_references([config, *overrides.values()])}
    for key, value in overrides.items():
        if key.startswith(ConfigParser.meta_key):
            continue
        if key not in parser:
            _check_new_key(parser, key, allowed)
        parser[key] = _outline(value)


def _check_new_key(parser: ConfigParser, key: str, allowed: Collection[str]) -> None:
    """Accept a key of which only the last part is new, where something reads it."""
    parts = ReferenceResolver.split_id(key)
    node = parser.get()
    for depth, part in enumerate(parts):
        known = list(map(str, range(len(node)))) if isinstance(node, list) else list(node)
        if part in known:
            node = node[int(part)] if isinstance(node, list) else node[part]
            if depth < len(parts) - 1 and not isinstance(node, (dict, list)):
                node = {}  # a value or a reference has no parts
            continue
        arguments, any_other = _arguments(parser, node)
        last = depth == len(parts) - 1
        if last and (any_other or part in arguments or ReferenceResolver.normalize_id(key) in allowed):
            return
        raise ValueError(_unknown(key, parts[:depth], part, [*known, *arguments], isinstance(node, list)))


def _unknown(key: str, above: Sequence[str], part: str, known: Sequence[str], is_list: bool) -> str:
    """What is wrong with a key, and what may be meant."""
    separator = "#" if "#" in key or "::" not in key else "::"
    meant = nearest(part, known)
    if is_list:
        step = f"{separator.join(above)} is a list: use an index from 0 to {len(known) - 1}."
    elif meant:
        step = f"Did you mean {separator.join([*above, meant])}?"
    elif above and not known:
        step = f"{separator.join(above)} has no keys of its own: override it as a whole."
    else:
        keys = ", ".join(sorted({name for name in known if not name.startswith("_")}))
        step = f"{separator.join(above) or 'The config'} has {keys}."
    return f"{key} must be a key of the config, got an unknown one. {step}"


def _arguments(parser: ConfigParser, node: Any) -> tuple[list[str], bool]:
    """Names of what a component takes, and whether it takes any other."""
    if not ConfigComponent.is_instantiable(node):
        return [], False
    target = ConfigComponent(node, id="", locator=parser.locator).resolve_module_name()
    component: Any = locate(target) if isinstance(target, str) else target
    try:
        parameters = inspect.signature(component).parameters.values()
    except (TypeError, ValueError):  # not to be found, or without a signature
        return [], True
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return [*named, *_OF_EVERY_COMPONENT], any(p.kind == p.VAR_KEYWORD for p in parameters)


def _references(value: Any) -> set[str]:
    """Ids that a config refers to."""
    return {name for text in _texts(value) for name in ReferenceResolver.match_refs_pattern(text)}


def _outline(value: Any) -> Any:
    """The same dictionaries and lists anew, with the same leaves."""
    if isinstance(value, dict):
        return {key: _outline(part) for key, part in value.items()}
    return [_outline(part) for part in value] if isinstance(value, list) else value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def _tracking_keys(tracking: str | dict[str, Any] | None) -> list[str]:
    """Keys that MONAI adds for experiment tracking."""
    if tracking is None:
        return []
    known = DEFAULT_EXP_MGMT_SETTINGS.get(tracking) if isinstance(tracking, str) else None
    settings = ConfigParser.load_config_files(tracking) if known is None else known
    return [name for name in settings["configs"] if name not in settings["handlers_id"]]
