"""Pictures in one pass: the network is loaded once, each picture is painted and saved."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from .. import files
from ..errors import OptionError, OutputError, RunError
from .batch import KEPT, MADE, differences
from .ends import save_elsewhere
from .job import STANDARD, Job
from .kinds import Number, Unfit
from .progress import Progress
from .settings import Settings
from .studio import Studio

if TYPE_CHECKING:
    from ..pretrained import FastWeights
    from ..transfer import FastResult

MODELS = ("magenta", "adain")  # nstcore.fast's; --help must not wait for numpy
ONE_PASS = ("model", "strength")  # settings that a picture of one pass has, and no other
_PATIENCE = 1.0  # seconds without a word
# Of all settings, those that decide a picture of one pass
_SETTINGS = ("size", "colors", "style_blend", "style_size", "bits", "quality", "precision")


class OnePass:
    """A network and what it is asked for, for any number of pictures.

    Parameters
    ----------
    studio : Studio
    model : str, optional
        The network; that of `weights`, if not given.
    weights : str, optional
        Name, file or folder; the model's own name, if not given.
    strength : float
    quiet : bool
        Show no progress.
    """

    def __init__(
        self, studio: Studio, model: str | None, weights: str | None, strength: float, quiet: bool = False
    ) -> None:
        self.studio, self.strength, self._quiet = studio, strength, quiet
        self._model, self._name = model, weights or model or MODELS[0]
        self._loaded: FastWeights | None = None

    def network(self, settings: Settings) -> FastWeights:
        """The weights, read or fetched once."""
        if self._loaded is None:
            found = self.studio.networks.fast(self._name, settings["offline"])
            if self._model not in (None, found.model):
                raise OptionError(
                    f"--model {self._model}: expected its weights, got those of {found.model} in {self._name}; leave "
                    "out one of the two options"
                )
            self._loaded = found
        return self._loaded

    def request(self, job: Job) -> dict[str, Any]:
        """What a job asks for, apart from file names: equal requests make equal pictures on one machine."""
        asked = self.studio.request_of_pictures(job)
        settings = {name: text for name, text in asked["settings"].items() if name in _SETTINGS}
        weights = self.network(job.settings)
        return asked | {
            "weights": weights.sha256,
            "settings": settings | {"model": weights.model, "strength": f"{self.strength:g}"},
        }

    def outcome(self, job: Job, studio: Studio, name: str) -> tuple[str, str]:
        """Make a picture of many, unless it is there; its state, and a note."""
        files.make_folder(job.output.parent)
        studio.check(job)
        if differences(job.output, self.request(job)) == []:
            studio.say(f"{name}: kept, it is as asked")
            return KEPT, "as it was"
        result = self.paint(job, name)
        height, width = result.pixels.shape[1:]
        studio.say(f"{name}: {result.seconds:.2f} s")
        return MADE, f"{width}x{height}"

    def paint(self, job: Job, name: str = "", announce: bool = False) -> FastResult:
        """Make a picture and save it.

        Raises
        ------
        UsageError
            If it could not be made.
        RunError
            If it could be saved in another place only; the message says where.
        """
        from .. import transfer

        studio, settings = self.studio, job.settings
        studio.check(job)
        with job.held() as beat, Progress("it", name, self._quiet) as progress:
            if job.output != STANDARD:
                files.discard_parts(job.output)
            weights, engine = self.network(settings), studio.engine(settings)
            if announce:
                studio.say(f"weights: {weights.describe()}")
                studio.say(f"engine: {engine.describe()}")
            if engine.notice:
                studio.note(engine.notice)
            request = self.request(job)  # now: at the end, an input may have gone
            begin = time.monotonic()

            def on_share(share: float) -> None:
                beat()
                if time.monotonic() - begin > _PATIENCE:
                    progress(int(100 * share), 100, "", share)

            result = transfer.stylize_fast(
                str(job.content),
                [str(style) for style in job.styles],
                weights=weights,
                engine=engine,
                strength=self.strength,
                on_share=on_share,
                **settings.keywords(),
            )
            result.metadata.update(
                request=request, complete=True, weights=result.metadata["weights"] | {"given": self._name}
            )
            progress.writing(job.shown_output, *result.pixels.shape[1:])
            self._save(job, result)
        if result.alpha is not None and job.output.suffix.lower() in (".jpg", ".jpeg"):
            studio.note("JPEG has no transparency: clear parts are white; .png, .webp and .tif keep them")
        return result

    @staticmethod
    def _save(job: Job, result: FastResult) -> None:
        try:
            result.save(job.output, bits=job.settings["bits"], quality=job.settings["quality"])
        except OutputError as error:
            stem = job.content.stem if job.output == STANDARD else job.output.stem
            raise RunError(save_elsewhere(error, result, f"nstcore-{stem}", job.settings["bits"])) from error


def read_strength(value: Any, label: str) -> float:
    """A strength as a person wrote it, or as a picture carries it."""
    try:
        strength = Number().read(value)
    except Unfit:
        strength = float("nan")
    if not 0 <= strength <= 1:
        raise OptionError(f"{label}: expected a number from 0 to 1, got {value!r}")
    return strength


def summary_of_pass(job: Job, result: FastResult) -> str:
    """A line about a picture that was made."""
    height, width = result.pixels.shape[1:]
    return f"{job.shown_output}: {width}x{height}, one pass in {result.seconds:.2f} s"
