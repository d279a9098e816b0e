"""Whether a scheduled run has anything to do: the data, or how it is worked on, differs from what versions came of."""

from dataclasses import dataclass

from medloop import evidence, params
from medloop.fetching import watermark
from medloop.tracking import registry, runs
from medloop.tracking.connection import server


@dataclass(frozen=True)
class Finding:
    """What a look at the data found."""

    new: bool
    reason: str  # one line
    watermark: str  # to be kept with the version that comes of it


def look(base: params.Base, section: params.Ingest, *, settings: str) -> Finding:
    """Compare the data with the watermarks of the registered versions; where none differs, record the reason.

    Args:
        base: names the model.
        section: says where the data lies.
        settings: digest of all else that decides a result.

    Raises:
        Refused: the data is not there.
        Unreachable: the data's or the tracking server does not answer.
    """
    mark = watermark.read(section)
    with server() as client:
        versions = registry.versions(client, base.model_name)
        finding = judged(mark, settings, {each.number: each.tags for each in versions})
        if not finding.new:
            tags = {"medloop.stage": "look", "medloop.model": base.model_name, "medloop.reason": finding.reason}
            client.set_terminated(runs.start(client, f"look {base.model_name}", {}, tags))
    return finding


def judged(mark: watermark.Watermark, settings: str, versions: dict[str, dict[str, str]]) -> Finding:
    """Return the finding, given the tags of the versions by their number, the oldest first."""
    came = [number for number, tags in versions.items() if tags.get(evidence.WATERMARK) == mark.digest]
    same = [
        number
        for number in came
        if versions[number].get(evidence.SETTINGS) == settings
        and versions[number].get(evidence.VERDICT, evidence.PENDING) != evidence.PENDING  # it went to its end
    ]
    if same:
        return Finding(False, f"nothing new: version {same[-1]} came of the same data ({mark})", mark.digest)
    if came:
        return Finding(True, f"the data is that of version {came[-1]} ({mark}), the settings are others", mark.digest)
    if not versions:
        return Finding(True, f"there is no version yet ({mark})", mark.digest)
    return Finding(True, f"no version came of this data yet ({mark})", mark.digest)
