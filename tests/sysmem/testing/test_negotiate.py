"""Negotiations without a daemon: their results, and the messages of failed assertions."""

from __future__ import annotations

import subprocess
import sys

import pytest

import sysmem
from sysmem import testing
from sysmem.testing import Attached, Group, Rule, assert_agree, assert_conflict, negotiate

from ...scenarios.scenario import buffers, image, images, memory

ALL_RIGHTS = sysmem.Rights(0xC0EF)  # all rights of a VMO (`docs/spec/protocol.md`)
NV12 = images(image(sysmem.PixelFormat.NV12))
BGRA = images(image())
EITHER = images(image(sysmem.PixelFormat.NV12), image())


def test_participants_agree() -> None:
    agreed = negotiate({"camera": buffers(5000), "encoder": buffers(9000), "watcher": None})
    assert agreed.settings.buffer_settings is not None
    assert agreed.settings.buffer_settings.size_bytes == 9000
    assert agreed.buffer_count == 2
    assert agreed.participants == ("camera", "encoder", "watcher")
    assert agreed.rights == {
        "camera": ALL_RIGHTS,
        "encoder": ALL_RIGHTS,
        "watcher": sysmem.Rights(0),
    }
    assert "the largest min_size_bytes: encoder (2)" in agreed.explanation


def test_a_refusal_is_an_error_with_reason_and_report() -> None:
    with pytest.raises(sysmem.SysmemError) as refused:
        negotiate({"camera": NV12, "display": BGRA})
    error = refused.value
    assert error.error is sysmem.Error.CONSTRAINTS_INTERSECTION_EMPTY
    assert error.reason is not None
    assert str(error) == f"CONSTRAINTS_INTERSECTION_EMPTY: {error.reason}"
    assert error.report is not None
    assert "smallest conflicting set: camera (1), display (2)" in error.report


def test_a_group_takes_the_first_alternative_that_suits() -> None:
    agreed = negotiate(
        [{"camera": NV12}, Group({"hardware": BGRA}, {"software": EITHER, "helper": None})]
    )
    assert agreed.participants == ("camera", "software", "helper")
    with pytest.raises(sysmem.SysmemError, match="no format and modifier is left"):
        negotiate([{"camera": NV12}, Group({"hardware": BGRA})])
    assert_conflict(
        [{"camera": NV12}, Group({"hardware": BGRA}, {"software": BGRA})],
        between={"camera", "hardware"},
    )


def test_groups_may_be_alternatives_of_groups() -> None:
    agreed = negotiate(
        [
            {"camera": NV12},
            Group([Group({"a": BGRA}, {"b": BGRA})], [Group({"c": BGRA}, {"d": EITHER})]),
        ]
    )
    assert agreed.participants == ("camera", "d")


def test_those_who_attach_get_what_exists_or_are_refused() -> None:
    camera = {"camera": buffers(4096, min_buffer_count=2)}
    agreed = negotiate([camera, Attached({"late": buffers(100)})])
    assert agreed.participants == ("camera", "late")
    with pytest.raises(sysmem.SysmemError) as refused:
        negotiate([camera, Attached({"late": buffers(5000)})])
    assert refused.value.error is sysmem.Error.CONSTRAINTS_INTERSECTION_EMPTY
    assert "late" in str(refused.value)


def test_too_many_alternatives_are_as_many_as_the_configuration_says() -> None:
    with pytest.raises(sysmem.SysmemError) as refused:
        negotiate(
            [{"camera": NV12}, Group({"a": BGRA}, {"b": BGRA}, {"c": BGRA})],
            config={"limits": {"max_group_selections": 2}},
        )
    assert refused.value.error is sysmem.Error.TOO_MANY_GROUP_CHILD_COMBINATIONS


@pytest.mark.parametrize(
    "config",
    [
        {"heap": [{"type": "carveout", "max_bytes": 8192}]},
        '[[heap]]\ntype = "carveout"\nmax_bytes = 8192',
    ],
)
def test_the_configuration_is_the_daemons(config: dict[str, object] | str) -> None:
    carveout = memory(permitted_heaps=[sysmem.Heap(heap_type="carveout", id=0)])
    assert negotiate({"camera": carveout, "gpu": carveout}, config=config).buffer_count == 2
    with pytest.raises(sysmem.SysmemError) as refused:
        negotiate(dict.fromkeys("abc", carveout), config=config)
    assert refused.value.error is sysmem.Error.NO_MEMORY
    assert "its limit of 8192" in str(refused.value)
    assert refused.value.report is None
    with pytest.raises(sysmem.SysmemError):
        negotiate({"camera": carveout})


def test_a_faulty_configuration_is_refused() -> None:
    with pytest.raises(testing.ConfigError, match=r"heaps"):
        negotiate({"camera": NV12}, config={"heaps": []})
    with pytest.raises(testing.ConfigError, match="not TOML"):
        negotiate({"camera": NV12}, config="= 3")


def test_nobody_and_two_of_the_same_name_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one participant"):
        negotiate({})
    with pytest.raises(ValueError, match="two participants are called 'camera'"):
        negotiate([{"camera": NV12}, {"camera": NV12}])
    with pytest.raises(ValueError, match="at least one alternative"):
        Group()


# --- assertions -----------------------------------------------------------------------------------------------------


def test_agreement_is_asserted_and_returned() -> None:
    assert assert_agree({"camera": NV12, "encoder": EITHER}).buffer_count == 2
    with pytest.raises(AssertionError) as failed:
        assert_agree({"camera": NV12, "display": BGRA})
    assert "do not agree" in str(failed.value)
    assert "display (2)*" in str(failed.value)


def test_a_conflict_is_asserted_and_returned() -> None:
    parties = {"camera": NV12, "audience": None, "display": BGRA}
    for rule in (Rule.NO_COMMON_FORMAT, "NO_COMMON_FORMAT", Rule.NO_COMMON_FORMAT.value, None):
        error = assert_conflict(parties, between={"camera", "display"}, rule=rule)
        assert error.error is sysmem.Error.CONSTRAINTS_INTERSECTION_EMPTY


def test_a_conflict_between_others_or_about_something_else_fails() -> None:
    parties = {"camera": NV12, "display": BGRA}
    with pytest.raises(
        AssertionError, match="between camera, encoder, not between camera, display"
    ):
        assert_conflict(parties, between=("camera", "encoder"))
    with pytest.raises(
        AssertionError, match="violation of NO_COMMON_HEAP, not of NO_COMMON_FORMAT"
    ):
        assert_conflict(parties, rule="NO_COMMON_HEAP")
    with pytest.raises(AssertionError, match=r"the participants agree:\n\nbuffer_count = 1"):
        assert_conflict({"camera": NV12})
    small = {"limits": {"max_buffer_bytes": 100}}
    with pytest.raises(AssertionError, match=r"not between camera:"):
        assert_conflict({"camera": NV12}, between="display", config=small)


def test_a_rule_that_does_not_exist_is_no_failure_but_an_error() -> None:
    with pytest.raises(
        ValueError, match="no rule 'NO_FORMAT'; the rules are NOBODY_ASKS_FOR_A_SIZE"
    ):
        assert_conflict({"camera": NV12}, rule="NO_FORMAT")


# --- the room -------------------------------------------------------------------------------------------------------


def test_the_kit_needs_no_pytest() -> None:
    program = "import sys, sysmem.testing\nprint('pytest' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
