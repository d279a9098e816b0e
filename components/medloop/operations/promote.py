"""Make a version the champion, if it is fit for it."""

from pathlib import Path
from typing import TYPE_CHECKING

from medloop import params, turn

if TYPE_CHECKING:
    from medloop.operations.verdict import Verdict


def promote(
    base: params.Base,
    rule: params.Promote,
    *,
    version: str | None = None,
    samples: Path = Path("artifacts/samples"),
    move: bool = True,
) -> "Verdict":
    """Decide whether a version becomes champion, and if so move the alias; the former champion becomes `previous`.

    What was decided is kept as a tag of the version.

    Args:
        base: names the model.
        rule: what a champion must fulfil.
        version: a number or an alias; None: the alias `challenger`.
        samples: today's samples; their test rows are what the champion is scored on.
        move: False: decide, and leave the alias where it is.

    Raises:
        Refused: no such version, or no samples to compare on.
        Conflict: somebody else moved the champion since this was called; nothing was changed.
    """
    before = turn.seen(base.model_name)  # ahead of the imports, which take seconds in which others may promote
    from medloop.operations import champion

    decision = champion.decide(base, rule, version or champion.CHALLENGER, samples)
    turn.check(base.model_name, before, f"the promotion of version {decision.version}")
    if move and decision.ok and decision.version != decision.champion:
        champion.move(base.model_name, decision.version, held_by=decision.champion, before=before)
        decision = decision.done()
    champion.keep(base.model_name, decision)
    return decision
