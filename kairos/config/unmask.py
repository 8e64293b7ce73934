"""The way back from `mask`: what was read with its secrets masked and is written back gets them again.

A mask stands for the secret at the same place; in lists that is the same item (`identity`), wherever it stands now. A
mask where there was no secret is an error, and so is one in a text that was changed around it, or where it would not
be masked again: nobody is to learn a secret by having it sent to another address or shown under another name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kairos.config.identity import matched, same
from kairos.config.mask import MASK, masked_plain

if TYPE_CHECKING:
    from kairos.config.problems import Findings, Path

_HIDDEN = f":{MASK}@"
_PROBE = "probe"


def unmasked(new: Any, old: Any, found: Findings, keys: Path = ()) -> Any:
    """`new` with the secrets of `old`; masks that stand for nothing are reported. Both in canonical spelling."""
    return _restored(new, old, masked_plain(old), masked_plain(_probed(new)), keys, found)


def _probed(value: Any) -> Any:
    """With something else for each mask: what is masked again stands where secrets stand."""
    if isinstance(value, dict):
        return {key: _probed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_probed(item) for item in value]
    return _PROBE if value == MASK else value


def _restored(new: Any, old: Any, shown: Any, probe: Any, keys: Path, found: Findings) -> Any:
    if same(new, shown) and not (new == MASK != old and probe != MASK):
        return old
    if isinstance(new, dict) and isinstance(probe, dict):
        return {
            key: _restored(item, *_member(old, shown, key), probe[key], (*keys, key), found)
            for key, item in new.items()
        }
    if isinstance(new, list) and isinstance(probe, list):
        return _restored_list(new, old, shown, probe, keys, found)
    if _is_mask(new, probe) or (new == MASK and shown == MASK):
        found.error(keys, "is a mask, and there is no secret here that it could stand for: write the secret")
    return new


def _is_mask(new: Any, probe: Any) -> bool:
    if not isinstance(new, str):
        return False
    return (new == MASK and probe == MASK) or f"//{MASK}@" in new or ("://" in new and _HIDDEN in new)


def _member(old: Any, shown: Any, key: str) -> tuple[Any, Any]:
    if isinstance(old, dict) and isinstance(shown, dict) and key in old:
        return old[key], shown[key]
    return None, _NOTHING


_NOTHING = object()


def _restored_list(new: list[Any], old: Any, shown: Any, probe: list[Any], keys: Path, found: Findings) -> list[Any]:
    known = isinstance(old, list) and isinstance(shown, list)
    places = matched(shown, new, by_place=True) if known else [None] * len(new)
    return [
        _restored(
            item,
            None if place is None else old[place],
            _NOTHING if place is None else shown[place],
            probe[at],
            (*keys, at),
            found,
        )
        for at, (item, place) in enumerate(zip(new, places, strict=True))
    ]
