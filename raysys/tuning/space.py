"""A search space as a file says it: a base run, a budget, and the keys whose values are searched.

A space is read and checked against its base run before anything else happens; it knows neither Ray nor
Optuna. How values are drawn is left to a function (key, parameter) -> value.
"""

import dataclasses
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from raysys import config
from raysys.data.sequences import SessionConfig
from raysys.errors import ConfigError
from raysys.run import RunConfig, load_tables, read_run
from raysys.seeds import derive_seed
from raysys.training_config import TrainingConfig
from raysys.tuning.space_config import Parameter, SearchConfig, same

Values = dict[str, Any]
"""Dotted key -> value of the searched keys that are active in a trial."""

SEARCHED = ("model", "training", "session")
FIXED = ("training.epochs", "training.seed", "training.metric", "training.valid_users", "model.name")
"""Keys of `SEARCHED` that make trials comparable, or that the search sets itself."""
MAX_FEATURE_SETS = 32


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """A space file, read and checked.

    Attributes:
        name: of the file, without its ending.
        tables: the base run's tables, with the overrides of the command line and the search's own keys.
        base: the run of `tables`: the untuned trial.
        search, parameters: `[search]` and `[space]`.
    """

    name: str
    tables: Mapping[str, Any]
    base: RunConfig
    search: SearchConfig
    parameters: dict[str, Parameter]

    @property
    def digest(self) -> str:
        """Digest of what decides the trials; how many there are and how long they take may change between
        two calls."""
        search = config.to_table(self.search)
        for name in (
            "trials",
            "total_epochs",
            "max_minutes",
            "trials_at_once",
            "repeat_best",
            "repeat_seeds",
        ):
            search.pop(name)
        parameters = {key: _literals(config.to_table(known)) for key, known in self.parameters.items()}
        runs = [self.base.features_digest, self.base.training_digest]
        return config.digest([search, parameters, list(parameters), *runs])

    @property
    def counts(self) -> bool:
        """Whether the model counts: a trial is one fit, without epochs, seeds and steps."""
        return self.base.learns_by == "rows"

    @property
    def epochs(self) -> int:
        """Epochs of a trial at most."""
        return 1 if self.counts else self.base.training.epochs

    def draw(self, suggest: Callable[[str, Parameter], Any]) -> Values:
        """Return a value for every active key, asked for in the order of the file."""
        values: Values = {}
        for key, parameter in self.parameters.items():
            if self._active(parameter, values):
                values[key] = suggest(key, parameter)
        return values

    def untuned(self) -> Values:
        """Return the base run's values of the keys that are active under them."""
        return self.draw(lambda key, _: base_value(self.base, key))

    def _active(self, parameter: Parameter, values: Values) -> bool:
        return all(
            any(same(values.get(key, base_value(self.base, key)), allowed) for allowed in allowed_values)
            for key, allowed_values in parameter.when.items()
        )

    def run(self, values: Values, seed: int) -> RunConfig:
        """Return the run of a trial.

        Raises:
            ConfigError: the values do not go together.
        """
        return read_run(config.apply_values(self.tables, {**values, "training.seed": seed}))

    def seed_of(self, values: Values) -> int:
        """Return the seed of a trial, below 2**31, a function of the search's seed and of its values."""
        return derive_seed(self.search.seed, "trial", config.digest(to_literals(values))) % 2**31

    def repeat_seed(self, number: int) -> int:
        """Return a seed under which the best are trained again, the same for each of them."""
        return derive_seed(self.search.seed, "repeat", number) % 2**31

    def feature_runs(self) -> dict[str, RunConfig]:
        """Return by features digest a run of every set of features that a trial can need, the base run's
        first."""
        keys = [key for key in self.parameters if key.startswith("session.")]
        runs = {self.base.features_digest: self.base}
        for values in product(*(self.parameters[key].values for key in keys)):
            run = self.run(dict(zip(keys, values, strict=True)), self.base.training.seed)
            runs.setdefault(run.features_digest, run)
        return runs


def to_literals(values: Values) -> dict[str, str]:
    """Return the values as TOML writes them, for files: JSON has no infinity."""
    return {key: config.to_literal(value) for key, value in values.items()}


def of_literals(literals: Mapping[str, str]) -> Values:
    """Undo `to_literals`."""
    return {key: tomllib.loads(f"value = {text}")["value"] for key, text in literals.items()}


def _literals(table: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: config.to_literal(value) for name, value in table.items() if not isinstance(value, Mapping)
    } | {f"when.{key}": config.to_literal(value) for key, value in table.get("when", {}).items()}


def base_value(run: RunConfig, key: str) -> Any:
    """Return the value of a dotted key of a run.

    Raises:
        ConfigError: the run has no such key.
    """
    section, _, name = key.partition(".")
    known = {"model": type(run.model), "training": TrainingConfig, "session": SessionConfig}[section]
    names = [entry.name for entry in dataclasses.fields(known)]
    if name not in names:
        raise ConfigError(f"{key}: unknown key{config.suggest(name, names, section)}")
    value = getattr(run.model if section == "model" else getattr(run, section), name)
    return list(value) if isinstance(value, tuple) else value


def load_space(path: str, overrides: Sequence[str] = (), run_file: str | None = None) -> SearchSpace:
    """Return the space of a TOML file; overrides are of its base run, or of `search.` keys.

    Args:
        path: of the space.
        overrides: dotted.key=value.
        run_file: the base run in the place of the one that the file names.

    Raises:
        ConfigError: no such file, an unknown key, a key that cannot be searched, a base value outside its
        range, values that do not go together.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"--space {path}: no such file; spaces are in tune_spaces/")
    tables = config.parse_toml(file.read_bytes(), path)
    own = [text for text in overrides if text.partition("=")[0].strip().startswith("search.")]
    tables = config.apply_overrides(tables, own)
    for name in tables:
        if name not in ("base", "search", "space"):
            raise ConfigError(
                f"{path}: {name}: unknown key{config.suggest(name, ['base', 'search', 'space'])}"
            )
    base, space = tables.get("base"), tables.get("space")
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base: missing; name the run file that is tuned")
    if not isinstance(space, Mapping) or not space:
        raise ConfigError(f"{path}: [space]: missing; name the keys that are searched")
    search = config.read(SearchConfig, tables.get("search", {}), "search")
    parameters = {
        key: config.read(Parameter, table, f"space.{key}") for key, table in _parameters(space, path).items()
    }
    run_tables = load_tables(
        run_file or str(file.parent / base), [text for text in overrides if text not in own]
    )
    run_tables = _with_search(run_tables, search)
    found = SearchSpace(
        name=file.stem, tables=run_tables, base=read_run(run_tables), search=search, parameters=parameters
    )
    _check(found)
    return found


def _parameters(space: Mapping[str, Any], path: str) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for key, table in space.items():
        if not isinstance(table, Mapping):
            raise ConfigError(f'{path}: space.{key}: expected "section.key" = {{ type = … }}')
        found[key] = table
    return found


def _with_search(tables: Mapping[str, Any], search: SearchConfig) -> dict[str, Any]:
    """Return the base run's tables under which trials are comparable."""
    values: Values = {"training.metric": search.training_metric}
    if search.scheduler == "pbt":
        values["training.patience"] = 0  # a population is compared at the same epochs
    if search.max_epochs and read_run(tables).learns_by == "gradient":
        values["training.epochs"] = search.max_epochs
    return config.apply_values(tables, values)


def _check(space: SearchSpace) -> None:
    for key in space.parameters if space.counts else ():
        if not key.startswith("model."):
            raise ConfigError(
                f"space.{key}: {space.base.model_name} counts and reads [model] alone; leave it out"
            )
    if space.counts and space.search.scheduler == "pbt":
        raise ConfigError(
            f'search.scheduler: {space.base.model_name} counts, and pbt is about training; use "none"'
        )
    if space.search.scheduler == "pbt":
        for key in space.parameters:
            if key.startswith("session.") or key == "training.patience":
                raise ConfigError(
                    f'space.{key}: scheduler = "pbt" changes values while trials train; leave it out'
                )
    earlier: list[str] = []
    for key, parameter in space.parameters.items():
        section = key.partition(".")[0]
        if section not in SEARCHED or key in FIXED or key.count(".") != 1:
            raise ConfigError(
                f"space.{key}: cannot be searched; sections are {', '.join(SEARCHED)}, without "
                f"{', '.join(FIXED)}, which keep trials comparable"
            )
        for other in parameter.when:
            if other in space.parameters and other not in earlier:
                raise ConfigError(f"space.{key}.when: {other} stands below it; move it above")
            if other.partition(".")[0] not in SEARCHED:
                raise ConfigError(f"space.{key}.when: {other} is no key of {', '.join(SEARCHED)}")
            base_value(space.base, other)
        value = base_value(space.base, key)
        if not parameter.holds(value):
            raise ConfigError(
                f"space.{key}: the base run has {config.to_literal(value)}, which is outside; the untuned "
                "run is the first trial, so widen the space"
            )
        earlier.append(key)
    _check_sessions(space)


def _check_sessions(space: SearchSpace) -> None:
    """Refuse session keys that would make another protocol, or too many sets of features."""
    keys = [key for key in space.parameters if key.startswith("session.")]
    for key in keys:
        if space.parameters[key].type != "choice":
            raise ConfigError(f'space.{key}: each value needs features of its own; use type = "choice"')
    if keys and space.base.split.unit == "session":
        raise ConfigError(
            f'space.{keys[0]}: under split.unit = "session" it decides what is held out, so trials could not '
            "be compared"
        )
    count = math.prod(len(space.parameters[key].values) for key in keys)
    if count > MAX_FEATURE_SETS:
        raise ConfigError(
            f"space: the keys of [session] have {count} combinations, each with features of its own; "
            f"expected {MAX_FEATURE_SETS} at most"
        )
