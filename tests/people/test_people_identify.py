"""Names of subjects over recordings: grouping, corrections of the user, order of the recordings."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from mien.errors import ConfigError
from mien.people.descriptors import FaceGradients, RecognitionNetwork, load_descriptor, threshold_of
from mien.people.find import Member, Recording, identify
from mien.people.names import read_names
from mien.views.people import Appearance, write_people

ANNA, BEN, CARL = np.eye(3)


def recording(
    name: str, faces: Mapping[int, np.ndarray | None], together: tuple[tuple[int, int], ...] = ()
) -> Recording:
    """A recording whose subjects have the given vector, or no face that can be read."""
    vectors = {subject: vector[None] for subject, vector in faces.items() if vector is not None}
    seconds = dict.fromkeys(faces, 1.0)
    return Recording(name, Path(name), Path(f"{name}.mp4"), Path(name, "timeline.csv"), {}, seconds, together, vectors)


def who(members: list[Member]) -> dict[tuple[str, int], str | None]:
    return {(m.recording.name, m.subject): m.person for m in members}


def test_the_same_person_has_the_same_name_and_strangers_their_own() -> None:
    members = identify([recording("a", {0: ANNA, 1: BEN}), recording("b", {0: BEN, 1: CARL})], 0.5)
    assert who(members) == {("a", 0): "person 1", ("a", 1): "person 2", ("b", 0): "person 2", ("b", 1): "person 3"}
    assert [m.how for m in members] == ["alone", "faces", "faces", "alone"]
    assert members[1].distance == 0.0
    assert members[0].distance is None
    assert members[0].nearest_distance == pytest.approx(np.sqrt(2))


def test_the_order_of_the_recordings_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    found = [
        recording(f"clip-{n}", {s: v + rng.normal(0, 0.1, 3) for s, v in enumerate((ANNA, BEN)[: 1 + n % 2])})
        for n in (1, 2, 10)
    ]
    names = {("clip-2", 0): "Anna"}
    results = [identify(list(order), 0.8, names) for order in permutations(found)]
    assert all(who(result) == who(results[0]) for result in results)
    assert [m.recording.name for m in results[0]] == ["clip-1", "clip-1", "clip-2", "clip-10", "clip-10"][
        : len(results[0])
    ]


def test_two_in_one_picture_are_two_people_however_alike() -> None:
    twins = [recording("a", {0: ANNA, 1: ANNA}, ((0, 1),)), recording("b", {0: ANNA})]
    names = who(identify(twins, 9.0))
    assert names["a", 0] != names["a", 1]
    assert who(identify([recording("a", {0: ANNA, 1: ANNA})], 9.0)) == {("a", 0): "person 1", ("a", 1): "person 1"}


def test_corrections_of_the_user_win_and_spread_to_others_alike() -> None:
    recordings = [
        recording("a", {0: ANNA}),
        recording("b", {0: ANNA}),
        recording("c", {0: BEN}),
        recording("d", {0: BEN}),
    ]
    apart = identify(recordings, 0.5, {("a", 0): "Anna", ("b", 0): "her twin"})
    assert who(apart) == {("a", 0): "Anna", ("b", 0): "her twin", ("c", 0): "person 1", ("d", 0): "person 1"}
    joined = identify(recordings, 0.5, {("a", 0): "Anna", ("c", 0): "Anna"})
    assert set(who(joined).values()) == {"Anna"}, "b is like a, and d like c"
    assert [m.how for m in joined] == ["names", "faces", "names", "faces"]
    taken = identify(recordings, 0.5, {("a", 0): "person 1"})
    assert who(taken)["c", 0] == "person 2", "a name of the user is not given twice"


def test_a_subject_without_a_readable_face_has_no_person_unless_named() -> None:
    recordings = [recording("a", {0: None, 1: ANNA})]
    assert who(identify(recordings, 0.5)) == {("a", 0): None, ("a", 1): "person 1"}
    assert who(identify(recordings, 0.5, {("a", 0): "Anna"}))["a", 0] == "Anna"
    sound = identify([recording("s", {}), recording("a", {0: ANNA})], 0.5, {("s", 0): "Anna", ("a", 0): "Anna"})
    assert who(sound) == {("a", 0): "Anna", ("s", 0): "Anna"}, "a voice is named by the user alone"
    assert [m.seconds for m in sound] == [1.0, 0.0]
    assert identify([], 0.5) == []


# --- names -----------------------------------------------------------------------------------------------------

KNOWN = [("monday", 0), ("monday", 1), ("tuesday", 0)]


def test_names_are_read_by_recording_and_subject(tmp_path: Path) -> None:
    table = tmp_path / "names.csv"
    table.write_text("name, subject,recording\nAnna,0,monday\n,1,monday\nAnna,0,tuesday\n", encoding="utf-8-sig")
    assert read_names(table, KNOWN) == {("monday", 0): "Anna", ("tuesday", 0): "Anna"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recording,name\nmonday,Anna\n", "subject is missing"),
        ("recording,subject,name\nmonady,0,Anna\n", "no recording 'monady'; is 'monday' meant?"),
        ("recording,subject,name\nmonday,7,Anna\n", "monday has no subject 7\n.*\nUse one of 0, 1"),
        (
            "recording,subject,name\nmonday,0,Anna\nmonday,0,Ben\n",
            ":3: subject 0 of monday is 'Ben' here",
        ),
    ],
)
def test_wrong_names_are_errors_that_teach(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "names.csv").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_names(tmp_path / "names.csv", KNOWN)
    with pytest.raises(ConfigError, match=r"--names .*gone\.csv cannot be read"):
        read_names(tmp_path / "gone.csv", KNOWN)


# --- descriptors -----------------------------------------------------------------------------------------------


def test_gradients_change_little_with_light_and_much_with_the_face() -> None:
    faces = np.random.default_rng(0).integers(60, 190, (2, 16, 16, 3), np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    brighter = (faces * 0.6 + 40).astype(np.uint8)
    descriptor = FaceGradients()
    first, lit = descriptor.describe(faces), descriptor.describe(brighter)
    assert first.shape == (2, 1764)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(descriptor.describe(np.zeros((1, 64, 64, 3), np.uint8))), 0)
    assert np.linalg.norm(first - lit, axis=1).max() < 0.1 < np.linalg.norm(first[0] - first[1])


def network(folder: Path, extra: str = "") -> Path:
    """An ONNX network that gives twice the mean of each channel, with its card."""
    from onnx import TensorProto, helper, save

    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("Add", ["m", "m"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 32, 32])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    save(model, folder / "net.onnx")
    (folder / "net.yaml").write_text(f"name: net\nfile: net.onnx\nsize: 32\nmargin: 0.1\n{extra}")
    return folder / "net.onnx"


def test_a_network_of_your_own_takes_the_place_of_gradients(tmp_path: Path) -> None:
    crops = np.full((1, 32, 32, 3), (255, 0, 51), np.uint8)
    plain = load_descriptor(str(network(tmp_path, "same_person: 0.7\n")))
    np.testing.assert_allclose(plain.describe(crops), [[2, 0, 0.4]], atol=1e-6)
    assert (plain.crop.size, plain.crop.margin, threshold_of(plain, None), threshold_of(plain, 0.3)) == (
        32,
        0.1,
        0.7,
        0.3,
    )
    unit = RecognitionNetwork(str(network(tmp_path, "unit_length: true\n")))
    np.testing.assert_allclose(np.linalg.norm(unit.describe(crops)), 1, atol=1e-6)
    assert unit.key != plain.key
    with pytest.raises(ConfigError, match="Add the key same_person to the card, or give the distance with --threshold"):
        threshold_of(unit, None)


# --- page ------------------------------------------------------------------------------------------------------


def appearance(folder: Path, person: str | None, how: str, distance: float | None, nearest: float | None) -> Appearance:
    record = {
        "media": {"path": "<i>.mp4"},
        "files": {},
        "classes": ["Neutral", "Anger"],
        "subjects": [{"subject": 0, "shares": {"Neutral": 0.75, "Anger": 0.25}, "valence": 0.1, "arousal": 0.2}],
    }
    return Appearance(
        folder.name, folder, record, 0, person, how, 2.0, distance, None if nearest is None else "Ben", nearest
    )


def test_the_page_escapes_names_and_marks_distances_near_the_threshold(tmp_path: Path) -> None:
    shown = [
        appearance(tmp_path / "a", "<b>Anna</b>", "faces", 0.38, 0.7),
        appearance(tmp_path / "b", "<b>Anna</b>", "names", 0.38, 0.42),
        appearance(tmp_path / "c", None, "no face", None, None),
    ]
    page = write_people(tmp_path / "people.html", shown, threshold=0.4, notes=["<note>"]).read_text(encoding="utf-8")
    assert "&lt;b&gt;Anna&lt;/b&gt;" in page
    assert "<b>Anna" not in page
    assert "<note>" not in page
    assert "2 appearances · 0:04.0" in page
    assert page.count('class="doubtful"') == 1, "only the first distance: the user has decided on the second subject"
    assert "Neutral 75 %, Anger 25 %" in page
    assert page.count("Not compared") == 1
    assert ">Face<" not in page, "no report holds a picture"
