"""Before a run that costs more than its user may expect there is a question, a warning, or a refusal."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import densekit
from densekit.data.native_size import NativeSize
from densekit.errors import InvalidInput
from densekit.parsing import read_yaml
from densekit.training import request as requests
from densekit.training.compose import compose
from densekit.training.confirmation import LONG, Concern, changed, hours, memory, settle, upscaling
from densekit.training.run_estimate import RunEstimate

FORECAST = RunEstimate(
    images={"train": 50_000},
    classes=10,
    input=(3, 224, 224),
    parameters=1,
    macs=1,
    start=None,
    new=(),
    adapted=(),
    steps=1,
    plan="shared",
    plan_reason="",
    memory_bytes=0,
    seconds=0,
)
COMMAND = ("densekit", "train", "my photos")
RECIPE = compose("digits")


def forecast(**changes: object) -> RunEstimate:
    return RunEstimate(**{**vars(FORECAST), **changes})


@given(native=st.integers(8, 500), wanted=st.integers(8, 500))
def test_pictures_scaled_up_are_a_concern_and_those_scaled_down_are_none(native: int, wanted: int) -> None:
    recipe = compose("digits", settings={"data.image_size": wanted})
    concern = upscaling(recipe, NativeSize(native, native, native, colour=True))
    assert (concern is not None) is (wanted > 1.1 * native)
    if concern is not None:
        assert concern.better[0] == "--image-size"
        assert int(concern.better[1]) <= max(native, 8)
        assert not concern.impossible


@given(needed=st.floats(1e6, 1e12), total=st.floats(1e8, 1e12), share=st.floats(0.1, 1.0))
def test_memory_beyond_the_machine_is_refused_and_beyond_what_is_free_asked_about(
    needed: float, total: float, share: float
) -> None:
    concern = memory(needed, RECIPE, total=total, free=total * share)
    assert (concern is not None) is (needed > total * share)
    if concern is not None:
        assert concern.impossible is (needed > total)
        assert concern.better[0] == "--set"


@pytest.mark.parametrize(
    ("seconds", "epochs", "side", "better"),
    [
        (LONG - 1, 10, 224, None),
        (LONG, 10, 224, ("--epochs", "5")),
        (5 * 3600, 10, 224, ("--image-size", "96")),
        (100 * 3600, 10, 224, ("--image-size", "64")),
        (5 * 3600, 10, 32, ("--epochs", "2")),
    ],
)
def test_hours_are_a_concern_with_something_shorter(
    seconds: float, epochs: int, side: int, better: tuple[str, ...] | None
) -> None:
    recipe = RECIPE.model_copy(update={"epochs": epochs})
    concern = hours(forecast(seconds=seconds, input=(3, side, side)), recipe)
    assert (concern and concern.better) == better


@pytest.mark.parametrize(
    ("words", "better", "expected"),
    [
        (["--epochs", "9", "--out", "x"], ("--epochs", "2"), ["--out", "x", "--epochs", "2"]),
        (["--set", "epochs=9"], ("--epochs", "2"), ["--epochs", "2"]),
        (["--set", "data.image_size=9", "--seed", "1"], ("--image-size", "8"), ["--seed", "1", "--image-size", "8"]),
        (["--set", "batch_size=9"], ("--set", "batch_size=4"), ["--set", "batch_size=4"]),
        (["--set", "optimizer.lr=9"], ("--set", "batch_size=4"), ["--set", "optimizer.lr=9", "--set", "batch_size=4"]),
    ],
)
def test_the_better_command_sets_a_thing_once(words: list[str], better: tuple[str, str], expected: list[str]) -> None:
    assert changed([*COMMAND, *words], better) == [*COMMAND, *expected]


def test_a_yes_goes_on_and_a_no_names_the_better_command() -> None:
    asked: list[str] = []

    def answer(reply: bool) -> Callable[[str], bool]:
        def ask(question: str) -> bool:
            asked.append(question)
            return reply

        return ask

    concern = Concern("it takes 5 h", ("--epochs", "2"))
    settle([None, concern], COMMAND, answer(True), pytest.fail)
    assert asked == ["it takes 5 h; better: densekit train 'my photos' --epochs 2. Go on all the same?"]
    with pytest.raises(InvalidInput, match=r"not started; try: densekit train 'my photos' --epochs 2"):
        settle([concern], COMMAND, answer(False), pytest.fail)


def test_where_nobody_can_be_asked_there_is_a_warning() -> None:
    warned: list[str] = []
    settle([Concern("it takes 5 h", ("--epochs", "2"))], COMMAND, None, warned.append)
    assert warned == ["warning: it takes 5 h; better: densekit train 'my photos' --epochs 2"]


def test_what_cannot_be_is_refused_whatever_the_answer() -> None:
    concern = Concern("it needs 38 GB", ("--set", "batch_size=8"), impossible=True)
    with pytest.raises(InvalidInput, match=r"it needs 38 GB; try: .*batch_size=8"):
        settle([concern], COMMAND, lambda _: True, pytest.fail)


def test_training_asks_before_it_makes_a_folder(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "total_memory", lambda _: 1e5)
    monkeypatch.setattr(requests, "room", lambda _: 1e5)
    settings = {"data.image_size": 16}
    with pytest.raises(InvalidInput, match=r"this machine has 100\.0 kB; try: densekit train .*batch_size="):
        densekit.train(str(photos), model="densenet_bc_10_4", epochs=1, out=tmp_path / "run", settings=settings)
    assert not (tmp_path / "run").exists()


def test_training_asks_before_it_scales_up(photos: Path, tmp_path: Path) -> None:
    """The pictures are 40 pixels high."""
    asked: list[str] = []

    def no(question: str) -> bool:
        asked.append(question)
        return False

    settings = {"data.image_size": 64}
    with pytest.raises(InvalidInput, match="--image-size 40"):
        densekit.train(str(photos), model="densenet_bc_10_4", out=tmp_path / "run", settings=settings, ask=no)
    assert len(asked) == 1
    assert "\n" not in asked[0]


def test_pictures_in_folders_are_trained_at_their_own_size(tmp_path: Path, photos: Path) -> None:
    finished = densekit.train(str(photos), model="densenet_bc_10_4", epochs=1, out=tmp_path / "run")
    assert read_yaml(finished.folder / "config.yaml")["data"]["image_size"] == [40, 40]
