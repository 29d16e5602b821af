"""Define a registry adapter: how to authenticate and read one kind of sender."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass

from pydantic import ValidationError

from adapters.registries.common.bodies import each
from adapters.registries.common.delivery import Delivery, IdToken, Outcome, Source, SourceOptions
from adapters.registries.common.oidc import verify_id_token
from adapters.validation_errors import first_problem


class BadOptions(ValueError):
    """`options` of a source cannot be used; the message names the key, never a value."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """One kind of sender. Every module of `adapters.registries` ends in `ADAPTER = Adapter(__name__, ...)`."""

    module: str
    """`__name__` of the module; its last part is the `kind` of sources."""
    _: KW_ONLY
    authenticate: Callable[[Delivery, Source], bool]
    """Whether the delivery proves that its sender knows a secret of the source."""
    read: Callable[[Delivery, Source], Outcome | list[Outcome]]
    """The outcome of the delivery, or of each of its events in their order, at least one. Raises `Unreadable`."""
    options: type[SourceOptions] | None = None
    """The model of `options`; `None` if sources of this kind take none."""
    id_token: Callable[[Source], IdToken | None] = lambda _source: None
    """The token that the sender must present instead of a secret; `None` if the source uses a secret."""
    fixed_hosts: Callable[[Source], Iterable[str]] = lambda _source: ()
    """The registry hosts that the sender or its options give to images, whatever a payload says."""
    ack_timeout_seconds: float = 0.0
    """How long the sender waits for an answer, less a margin, if a refusal loses the push or disables the sender.

    0 if the sender repeats a refused delivery.
    """
    reports_blobs: bool = False
    """Whether the sender reports blobs before the manifest that names them, and so can have `earlyBlobs`."""
    batched: bool = False
    """Whether a body that is a JSON list is one delivery."""

    @property
    def kind(self) -> str:
        """The name of the module without its package."""
        return self.module.rpartition(".")[2]

    async def verify(self, delivery: Delivery, source: Source) -> bool:
        """Whether the sender is the configured one. Raises `OSError` if keys cannot be fetched now."""
        if source.insecure:
            return True
        token = self.id_token(source)
        if token is not None:
            return await verify_id_token(delivery, source.keys, token)
        return self.authenticate(delivery, source)

    def parse(self, delivery: Delivery, source: Source) -> list[Outcome]:
        """Every event of the delivery in its order, at least one. An unreadable delivery is skipped as `malformed`."""
        return each([delivery], lambda delivery: self.read(delivery, source))

    def takes_tokens(self, source: Source) -> bool:
        """Whether the source is authenticated by tokens, and so needs keys and no secret."""
        return self.id_token(source) is not None

    def read_options(self, given: Mapping[str, object]) -> SourceOptions | None:
        """Check the configuration's `options` for this kind. Raises `BadOptions`."""
        if self.options is None:
            if given:
                raise BadOptions(f"options.{min(given)}: sources of kind {self.kind} take no options")
            return None
        try:
            return self.options.model_validate(dict(given))
        except ValidationError as error:
            path, problem = first_problem(error)
            raise BadOptions(f"{'.'.join(('options', *path))}: {problem}") from None
