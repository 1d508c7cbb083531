"""What every import shares: the source opened once a worker, an entry found for each photo, and a null with the reason
where there is none or it cannot be used.

An import is a labeler like any other, of a modality others make too: enable it instead of them, and its labels are a
recipe beside theirs, whose weights slot `source` names the file and its digest.

    manymodal label data --only det --set labelers.import_det.enabled=true \\
        --set labelers.import_det.weights.source=file:instances.json
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar

from labelers.core.labeler import Labeler, Resources, Sample
from labelers.core.modality import Label, LabelError, Null
from labelers.core.sources import Matcher, MatchParams, Source, SourceError

SOURCE = "source"


class ImportLabeler(Labeler):
    """Subclasses read the source in `load`, which returns the names of its entries, and one entry in `entry`."""

    sources = (SOURCE,)
    uses_pixels = False
    default_on = False
    resources = Resources(cpu=0.5, batch=64)
    Params: ClassVar[type[MatchParams]] = MatchParams

    @abstractmethod
    def load(self, source: Source) -> Iterable[str]:
        """Read what the source says as a whole; the names that photos are matched with. SourceError where it is none."""

    @abstractmethod
    def entry(self, name: str, sample: Sample) -> dict[str, Label | Null]:
        """The labels of one entry. SourceError or LabelError where it cannot be used; the photo gets the reason."""

    def setup(self) -> None:
        self.source = Source(self.files[SOURCE])
        names = list(self.load(self.source))
        if not names:
            raise SourceError(f"{self.name}: the source holds no entry that this import reads ({self.backend})")
        self._matcher = Matcher(names, self.params)

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        return [self._one(sample) for sample in samples]

    def _one(self, sample: Sample) -> dict[str, Label | Null]:
        name = self._matcher.find(sample)
        try:
            if not isinstance(name, Null):
                row = self.entry(name, sample)
                for modality in self.produces:
                    if not isinstance(row[modality.name], Null):
                        modality.check(row[modality.name])
                return row
        except (SourceError, LabelError) as error:
            name = Null(f"bad entry: {' '.join(str(error).split())[:300]}")
        return {modality.name: name for modality in self.produces}
