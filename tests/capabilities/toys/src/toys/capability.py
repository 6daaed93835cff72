"""The declaration of the toys."""

from modelworks.contract import Capability, Resources, Task
from toys import schemas

_SMALL = Resources(cpu=0.5, memory_bytes=128 * 1024**2)

capability = Capability(
    name="toys",
    summary="One toy task for each of the four modes.",
    package="toys",
    tasks=(
        Task(
            name="toy-spelling",
            mode="sync",
            input=schemas.SpellingInput,
            output=schemas.SpellingOutput,
            predictor="toys.serve:Speller",
            options=schemas.SpellingOptions,
            trainer="toys.train:learn_words",
            train_params=schemas.SpellingParams,
            train_inputs=("train",),
            evaluator="toys.evaluate:coverage",
            metrics=("coverage",),
            resources=_SMALL,
        ),
        Task(
            name="toy-countdown",
            mode="stream",
            input=schemas.CountdownInput,
            output=schemas.CountdownOutput,
            predictor="toys.serve:Countdown",
            predictors={"threaded": "toys.serve:ThreadedCountdown"},
            resources=_SMALL,
        ),
        Task(
            name="toy-tide",
            mode="job",
            input=schemas.TideInput,
            output=schemas.TideOutput,
            predictor="toys.serve:tide",
            resources=_SMALL,
        ),
        Task(
            name="toy-scene",
            mode="static",
            input=schemas.SceneInput,
            output=schemas.SceneOutput,
            trainer="toys.train:draw_scene",
            train_params=schemas.SceneParams,
            resources=_SMALL,
        ),
    ),
)
