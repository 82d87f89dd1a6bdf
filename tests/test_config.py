"""Settings: composition, every problem at once, and YAML that cannot surprise."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from cardiotune.config import dump, load_config, load_resolved, read_yaml, to_yaml
from cardiotune.errors import ConfigError
from cardiotune.settings import Column, Config, DataConfig, suggest


def problems(experiment: Path | str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(experiment, list(overrides))
    return str(caught.value)


def data(**columns: dict[str, Any]) -> DataConfig:
    return DataConfig.model_validate(
        {"path": "t.csv", "columns": {"x": {}, "y": {"role": "target"}, **columns}},
    )


def test_later_wins(toy_experiment: Path, tmp_path: Path) -> None:
    (tmp_path / "method.yaml").write_text("method: {r: 4}\ntrain: {epochs: 9, warmup_share: 0.5}\n")
    tree = yaml.safe_load(toy_experiment.read_text())
    tree["use"] = {"method": "./method.yaml"}
    toy_experiment.write_text(yaml.safe_dump(tree))
    config = load_config(
        toy_experiment, ["train.learning_rate=2e-4", "train.learning_rate=1e-3", "data.columns.age.unit=y"]
    )
    assert config.method.r == 4
    assert config.train.epochs == 2, "the experiment's own key stands above its group file"
    assert config.train.warmup_share == 0.5
    assert config.train.learning_rate == 1e-3
    assert config.data.columns["age"].unit == "y" and config.data.columns["age"].range == (18, 110)


def test_relative_paths_belong_to_their_file(
    toy_experiment: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert load_config(toy_experiment).data.path == str(tmp_path / "table.csv")
    assert load_config(toy_experiment, ["data.path=t.csv"]).data.path == str(elsewhere / "t.csv")


def test_saved_config_reads_back_equal(toy_experiment: Path, tmp_path: Path) -> None:
    config = load_config(toy_experiment, ["data.columns.pain.codes={1E5: a, 'no': b, '010': c, '2020-01-01': d}"])
    saved = tmp_path / "saved.yaml"
    saved.write_text(dump(config))
    assert load_resolved(saved) == config
    assert list(config.data.columns["pain"].codes or {})[-3:] == ["no", "010", "2020-01-01"]


TEXTS = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=8)


@given(st.dictionaries(TEXTS, TEXTS | st.integers() | st.floats(allow_nan=False), max_size=4))
@example({"1e5": "2E1", "010": "1:30", "2020-01-01": "no", "0x1F": "true", "~": "null"})
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, tree: dict[str, Any]) -> None:
    file = tmp_path_factory.mktemp("yaml") / "a.yaml"
    file.write_text(to_yaml(tree), "utf-8")
    assert read_yaml(file) == tree


def test_scalars_are_not_guessed(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("a: [010, 1e-4, 2020-13-01, no, on, 1:30, 0x1F, 3, -2, true]")
    assert read_yaml(file)["a"] == ["010", 1e-4, "2020-13-01", "no", "on", "1:30", "0x1F", 3, -2, True]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trian.epochs=2", "trian: unknown key; did you mean train?"),
        ("train.lerning_rate=1", "train.lerning_rate: unknown key; did you mean learning_rate?"),
        ("epochs=2", "epochs: unknown key; did you mean train.epochs?"),
        ("data.columns.sex.cods={}", "data.columns.sex.cods: unknown key; did you mean codes?"),
        ("data.columns.age.derive.functoin=bmi", "functoin: unknown key; did you mean function?"),
        ("serialize.zzz=1", "serialize.zzz: unknown key; expected one of style, order"),
        ("use.modle=toy", "use.modle: unknown group; did you mean model?"),
        ("use.model=gema3-270m", "use.model: gema3-270m: no such file in configs/models; did you mean gemma3-270m?"),
        ("split.by=sites", "did you mean site?"),
        ("models=[tuned, lightgmb]", "models.1: input should be"),
    ],
)
def test_nearest_name_is_suggested(toy_experiment: Path, override: str, said: str) -> None:
    assert said in problems(toy_experiment, override)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.epochs=abc", "train.epochs: input should be a valid number"),
        ("train.epochs=0", "train.epochs: input should be greater than 0"),
        ("train.epochs=.inf", "finite"),
        ("train=5", "train: input should be"),
        ("method=lora", "(came: 'lora'); to choose one by name, use.method=NAME"),
        ("seed=true", "seed: true and false are not accepted"),
        ("seed=1.5", "seed: input should be a valid integer"),
        ("data.columns.sex.range=[1]", "data.columns.sex.range.1: missing"),
        ("split.test=1.2", "split.test: input should be less than 1"),
        ("task.threshold=1", "task.threshold"),
        ("launch.processes=0", "launch.processes: input should be greater than or equal to 1"),
        ("evaluation.known_ceiling=81", "evaluation.known_ceiling: input should be less than or equal to 1"),
        ("evaluation.known_ceiling=0.5", "evaluation.known_ceiling: input should be greater than 0.5"),
        ("name=../escape", "name: string should match"),
        ("method.target_modules=some", "method.target_modules: input should be a valid list"),
        ("use=[gemma3-270m]", "expected `group: name` pairs"),
        ("seed", "expected key.sub=value"),
        ("seed=[1", "not valid YAML"),
        ("seed=&a [*a]", "aliases"),
        ("seed=!!python/object:os.system x", "not valid YAML"),
    ],
)
def test_wrong_values(toy_experiment: Path, override: str, said: str) -> None:
    assert said in problems(toy_experiment, override)


def test_a_data_set_brings_its_ceiling(toy_experiment: Path) -> None:
    assert load_config(toy_experiment).evaluation.known_ceiling is None
    config = load_config("cardio_published", ["data.path=t.csv"])
    assert config.evaluation.known_ceiling == 0.81
    for value, known in (("0.85", 0.85), ("null", None)):
        config = load_config("cardio_published", ["data.path=t.csv", f"evaluation.known_ceiling={value}"])
        assert config.evaluation.known_ceiling == known


def test_all_problems_come_together(toy_experiment: Path) -> None:
    said = problems(toy_experiment, "trian.x=1", "seed=abc", "split.test=0.6", "split.validation=0.5", "use.task=nope")
    assert "5 problems" not in said and said.startswith(f"{toy_experiment}: 4 problems\n")
    for part in ("use.task: nope", "seed:", "split: validation + test must leave", "trian:"):
        assert part in said
    assert said.count("\n") == 4


def test_all_problems_of_a_dictionary_come_together() -> None:
    with pytest.raises(ValueError, match=r"data\.columns") as caught:
        data(
            a={"codes": {"1": "one"}},
            b={"type": "text", "range": [0, 1]},
            c={"derive": {"function": "bmi", "inputs": ["x", "nowhere"]}},
            y={"role": "target", "codes": {"1": "no", "2": "yes"}},
        )
    said = str(caught.value)
    assert "data.columns.a.codes: need type binary" in said, "codes would be ignored in a number column"
    assert "data.columns.b.range: needs type numeric" in said
    assert "data.columns.c.derive.inputs: nowhere is not in data.columns" in said
    assert "data.columns.y.positive: missing" in said, (
        "code 1 must not silently be the event when the codes are 1 and 2"
    )


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"y": {}}, "one column with role target, found 0"),
        ({"z": {"role": "target"}}, "found 2"),
        ({"x": {"role": "ignore"}}, "no column has role feature"),
        ({"a": {"role": "id"}, "b": {"role": "id"}}, "role id is given to"),
        ({"a": {"range": [2, 1]}}, "first number must be the smaller"),
        ({"a": {"positive": ["1"]}}, "only the target column"),
        ({"y": {"role": "target", "codes": {"0": "no", "1": "yes"}, "positive": ["2"]}}, "not in codes"),
        ({"a": {"role": "time", "type": "text"}}, "a time is date"),
        ({"a": {"derive": {"function": "bmi", "inputs": ["x"]}}}, "bmi takes 2, found 1"),
        ({"a": {"type": "text"}, "b": {"derive": {"function": "age_years_from_days", "inputs": ["a"]}}}, "a is text"),
    ],
)
def test_dictionary_problems(columns: dict[str, dict[str, Any]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        data(**columns)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["split.by=site"], "split.by: site needs a column with role site"),
        (["split.by=column"], "split.by: column needs a column with role split"),
        (["data.columns.smoker.role=split"], "split.by: random, but column smoker has role split"),
        (["split.test_sites=[A]"], "split.test_sites: needs split.by: site"),
        (["models=[]"], "models: name at least one"),
        (["models=[tuned, tuned]"], "named twice"),
        (["evaluation.parts=[train]"], "evaluation.parts: must hold test"),
        (["model.family=encoder"], "use task.head=classifier"),
        (["serialize.style=template"], "serialize: `style: template` needs one of"),
        (["split.test=0.6", "split.validation=0.35"], "5 %"),
    ],
)
def test_contradictions(toy_experiment: Path, overrides: list[str], said: str) -> None:
    assert said in problems(toy_experiment, *overrides)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &x 1\nb: *x\n", "aliases"),
        ("a: !!python/object/apply:os.system ['true']\n", "not valid YAML at line 1"),
        ("a: 1\nb: 2\na: 3\n", "line 1 (key a is given twice; keep one)"),
        ("a: {b: 1, b: 2}\n", "key b is given twice"),
        ("- 1\n", "expected a mapping"),
        ("", "expected a mapping"),
        ("a: [1\n", "not valid YAML at line 2"),
        ("a: " + "[" * 1000 + "]" * 1000, "nested too deep"),
        ("a: " + "9" * 5000, "number too long"),
        ("a: " + "[" * 200_000, "nested too deep"),
        ("".join(" " * level + "a:\n" for level in range(300)), "nested too deep"),
        ("# " + "x" * (16 << 20), "larger than 16 MiB"),
    ],
)
def test_yaml_is_refused_by_file_name(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_yaml(file)
    assert said in str(caught.value) and str(caught.value).startswith(str(file))


def test_a_run_reads_its_own_config_whatever_its_size(toy_experiment: Path, tmp_path: Path) -> None:
    """Thousands of columns make it large; a file that somebody wrote has a limit, for it may be a
    table."""
    config, file = load_config(toy_experiment), tmp_path / "config.yaml"
    file.write_text(dump(config) + "# " + "x" * (16 << 20))
    assert load_resolved(file) == config
    with pytest.raises(ConfigError, match="larger than 16 MiB"):
        read_yaml(file)
    file.write_text(dump(config).replace("name: toy", "name: other"))
    assert load_resolved(file).name == "other", "what has changed is read anew"
    file.write_text("a: &x [1]\nb: *x\n")
    with pytest.raises(ConfigError, match="aliases"):
        load_resolved(file)


def test_yaml_in_another_encoding(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes("a: Zürich".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_yaml(file)


def test_missing_files(tmp_path: Path) -> None:
    assert "no such file in configs/experiments; did you mean statlog_heart?" in problems("statlog_hart")
    assert "no such file; give a YAML file" in problems(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("role", "kind"),
    [
        ("feature", "numeric"),
        ("id", "text"),
        ("group", "text"),
        ("site", "text"),
        ("time", "date"),
        ("target", "binary"),
    ],
)
def test_type_follows_the_role(role: str, kind: str) -> None:
    assert Column.model_validate({"role": role}).type == kind
    assert Column.model_validate({"role": role, "type": "integer"}).type == "integer"


def test_suggest() -> None:
    assert suggest("cardo", ["cardio", "age"]) == "did you mean cardio?"
    assert suggest("zzz", ["cardio", "age"]) == "expected one of cardio, age"


def test_config_is_frozen(toy_experiment: Path) -> None:
    config: Config = load_config(toy_experiment)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3  # type: ignore[misc]
