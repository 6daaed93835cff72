"""Answer searches from an index that lies in files: no encoder, nothing heavy, ready in a moment."""

from __future__ import annotations

from modelworks.capabilities.retrieval.schemas import ServeOptions
from modelworks.capabilities.retrieval.search import Index
from modelworks.contract.errors import InvalidRequest
from modelworks.contract.passages import SearchInput, SearchOutput
from modelworks.contract.run import LocalModel


class PassageIndex:
    """Searches one index; may be asked from several threads.

    Raises:
        InvalidRequest: no model is given. InvalidData: it is no index. IntegrityFailed: its files are not what they were.
    """

    def __init__(self, model: LocalModel | None, options: ServeOptions | None) -> None:
        if model is None:
            raise InvalidRequest("This task needs an index.", hint="Name one in the deployment.", param="model")
        options = options or ServeOptions()
        self._index = Index(
            model.path, dense_weight=options.dense_weight, with_digests=options.check == "full", rerank=options.rerank
        )

    def predict(self, request: SearchInput) -> SearchOutput:
        """Hits for each query; see `Index.search`."""
        return self._index.search(request)
