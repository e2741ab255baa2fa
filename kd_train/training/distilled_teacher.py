"""What a run records of a compact teacher."""

from __future__ import annotations

import msgspec

from kdx.bundle.teacher_comparison import TeacherComparison
from kdx.text import number_of

# The file of the tensors of a run's teacher, compact or not.
TEACHER_FILE = "teacher.safetensors"
# The folder of a compact teacher's own run, in the run folder of its students, and the name that
# stands there for the method: no command trains it by itself.
TEACHER_FOLDER = "teacher"
COMPACT_TEACHER = "compact-teacher"


class Residual(msgspec.Struct, frozen=True):
    """How far a compact teacher is from its source at one tap.

    The mean over positions of half the squared distance between the unit vectors of both features:
    0 for equal directions, 1 for perpendicular ones.

    Attributes:
        good: On held-out good images.
        defects: On the same images with synthetic defects of kinds that training does not draw; at
            all positions, not only at the defects.
    """

    good: float
    defects: float


class DistilledTeacher(msgspec.Struct, frozen=True, kw_only=True):
    """How a compact teacher was made.

    Attributes:
        images: The number of good images, or of tiles, from which it learnt.
        variants: The number of variants of each of them; a teacher that several products share
            learns from more variants of the images of a product that has few.
        extra_images: The number of further images.
        epochs: The number of passes over all of them.
        loss: The loss of the last epoch, the sum over taps.
        residuals: The distance from the source at each tap.
        seconds: The seconds that the epochs took.
        comparisons: What its features tell of defects, compared with each of its sources; none in
            earlier runs. A run that uses the teacher of another run has those of that run, marked
            as such: it needs no source, so it cannot compare again.
    """

    images: int
    variants: int
    extra_images: int
    epochs: int
    loss: float
    residuals: dict[str, Residual]
    seconds: float
    comparisons: list[TeacherComparison] = []

    def describe(self) -> list[str]:
        """Return lines that say what the teacher learnt from, and how far from its source it is."""
        more = f" and {number_of(self.extra_images, 'further [image|images]')}" if self.extra_images else ""
        images, epochs = number_of(self.images, "good [image|images]"), number_of(self.epochs, "[epoch|epochs]")
        distances = ", ".join(f"{tap} {each.good:.3f} ({each.defects:.3f})" for tap, each in self.residuals.items())
        return [
            f"the teacher learnt from {images} in {self.variants} variants each{more}, {epochs}",
            f"its distance from its source on held-out good images (with drawn defects): {distances}",
            *(f"its features, as a detector without a student: {each.describe()}" for each in self.comparisons),
        ]

    def used_elsewhere(self) -> DistilledTeacher:
        """Return the record for a run that uses the teacher but did not make it."""
        marked = [msgspec.structs.replace(each, of_other_run=True) for each in self.comparisons]
        return msgspec.structs.replace(self, comparisons=marked)
