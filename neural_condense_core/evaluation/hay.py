"""Hay: sentences about nothing, without end, for generated texts.

Design decisions

* Errands of people without names: nothing in them is asked for, or looks like a code or a fact.
* Drawn from a seed; half a million different sentences, so that a long text hardly repeats one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def listed(words: str) -> tuple[str, ...]:
    """Return what stands between commas."""
    return tuple(words.split(","))


_WHO = listed(
    "The baker,A porter,The old gardener,My neighbour,The night clerk,A travelling tailor,"
    "The younger sister,The ferryman,A visiting teacher,The mayor,The carpenter,Our guide,"
    "The postman,A tired driver,The innkeeper,The new apprentice"
)
_DID = listed(
    "carried,repaired,borrowed,forgot,painted,counted,sold,described,cleaned,measured,unpacked,"
    "wrapped,looked for,asked about,pointed at,wrote down"
)
_WHAT = listed(
    "a basket of pears,the broken lantern,two wooden chairs,an old map,the kitchen clock,"
    "a bundle of letters,the blue curtains,a sack of flour,the garden tools,several empty bottles,"
    "the wedding photographs,a heavy suitcase,the harness,a pair of boots,the church accounts,"
    "some dried herbs"
)
_WHERE = listed(
    "behind the station,near the bridge,at the end of the lane,in the upper room,beside the well,"
    "on the way to market,under the chestnut trees,by the canal,across the square,"
    "in front of the school,outside the chemist's,along the river"
)
_WHEN = listed(
    "before breakfast,on a rainy afternoon,late in the evening,after the concert,"
    "during the first frost,while the shops were shut,at the beginning of spring,"
    "when the bells had stopped,shortly before noon,without saying a word,for the second time,"
    "as the fog was lifting"
)


def hay(rng: np.random.Generator) -> Iterator[str]:
    """Yield sentences without end."""
    while True:
        who, did, what, where, when = (
            str(rng.choice(words)) for words in (_WHO, _DID, _WHAT, _WHERE, _WHEN)
        )
        yield f"{who} {did} {what} {where} {when}."
