"""The field's task names (Hugging Face pipeline tags where one exists) and the mode in which each is answered."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from modelworks.contract.capability import Mode

#: A capability may declare a task that is not listed; one that is listed must have the mode given here.
TASK_MODES: Mapping[str, Mode] = MappingProxyType(
    {
        # language
        "text-generation": "stream",
        "feature-extraction": "sync",
        "text-classification": "sync",
        "token-classification": "sync",
        "text-ranking": "sync",
        "translation": "stream",
        "summarization": "stream",
        "question-answering": "sync",
        "table-question-answering": "sync",
        # documents
        "document-parsing": "job",
        "passage-retrieval": "sync",
        # sound
        "automatic-speech-recognition": "stream",
        "text-to-speech": "stream",
        "audio-classification": "sync",
        # pictures
        "image-classification": "sync",
        "object-detection": "sync",
        "image-segmentation": "sync",
        "mask-generation": "sync",
        "image-to-text": "sync",
        "image-text-to-text": "stream",
        "text-to-image": "sync",
        "image-to-image": "sync",
        "text-to-video": "job",
        "image-to-3d": "job",
        # science and industry
        "time-series-forecasting": "sync",
        "weather-forecast": "job",
        "scene-3d": "static",
    }
)
