"""What goes wrong, as an answer: one table for all errors.

A message is shown only where the request was at fault: what a disk says may name paths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from attrs import frozen

from mpreg import errors
from mpreg.errors import MpregError
from mpreg.server.answers import Answer

__all__ = ["PROBLEMS", "Problem", "problem_of", "unexpected"]

PROBLEM_TYPE: Final = "application/problem+json"

_AGAIN: Final = "Ask again in a moment."
_OPERATOR: Final = "Tell who runs the node: its log says more."


@frozen
class Problem:
    """How an error class is told."""

    status: int
    title: str
    advice: str = ""
    retry_after_seconds: float | None = None
    is_public: bool = False
    """Whether its message is shown although it is not the fault of the request."""

    @property
    def shows_message(self) -> bool:
        return self.status < 500 or self.is_public


_BROKEN: Final = Problem(503, "The store of this node does not work.", _OPERATOR, 10.0)
_CLOSED: Final = Problem(503, "The node is stopping, or its store has stopped.", _AGAIN, 1.0)
_OPENING: Final = Problem(503, "The store cannot be opened.", _OPERATOR, 30.0)
_BUG: Final = Problem(
    500, "Something unexpected happened.", "Look whether it was done before you do it again."
)

PROBLEMS: Final[Mapping[type[MpregError], Problem]] = {
    errors.MpregError: _BUG,
    # actors
    errors.ActorError: _BUG,
    errors.MailboxFullError: Problem(503, "The node has too much to write.", _AGAIN, 1.0),
    errors.MailboxClosedError: _CLOSED,
    errors.AckAlreadyResolvedError: _BUG,
    errors.ConfigurationError: Problem(400, "A setting is impossible."),
    errors.WatchLaggedError: Problem(
        503, "Changes came faster than they were taken.", "Watch again, and read anew.", 0.0
    ),
    # a node
    errors.NodeError: _BUG,
    errors.NotReadyError: Problem(503, "The node is not ready.", _AGAIN, 1.0),
    errors.PeersUnheardError: Problem(
        503,
        "It is not known yet whether another node has the queue.",
        "Ask again in a moment. PUT …?here makes it at this node all the same.",
        1.0,
        is_public=True,
    ),
    errors.UnauthorizedError: Problem(401, "Who are you?", "Send Authorization: Bearer …"),
    errors.ForbiddenError: Problem(403, "This may not be done with this token."),
    errors.TooManyRequestsError: Problem(429, "Too many requests.", _AGAIN, 1.0),
    errors.RequestRefusedError: Problem(400, "The request makes no sense."),
    errors.NotANodeError: Problem(502, "Something else answers where a node should."),
    errors.NotFoundError: Problem(404, "There is nothing here."),
    errors.IdempotencyKeyReusedError: Problem(
        422, "The Idempotency-Key was used before.", "Use a new key for each write."
    ),
    errors.WriteInterruptedError: Problem(
        409,
        "It was begun before, and cut short.",
        "Look what is there, and ask with a new Idempotency-Key.",
    ),
    errors.UnexpectedError: _BUG,
    errors.NodeUnreachableError: Problem(
        502,
        "The node that would know gave no answer.",
        "Send it again with the same Idempotency-Key.",
    ),
    errors.PeerUnreachableError: Problem(
        502,
        "The node that has the queue gave no answer.",
        "Send it again with the same Idempotency-Key.",
        1.0,
        is_public=True,
    ),
    errors.ForwardingLoopError: Problem(
        508,
        "Nodes send this to one another.",
        "Look at /v1/fabric of each: which node has the queue?",
        is_public=True,
    ),
    # queues
    errors.QueueError: _BUG,
    errors.QueueNotFoundError: Problem(
        404,
        "There is no such queue, or subscription.",
        "PUT /v1/queues/NAME makes a queue, PUT /v1/queues/NAME/subscriptions/NAME a subscription.",
    ),
    errors.QueueDeletedError: Problem(
        410, "The queue was deleted.", "PUT /v1/queues/NAME makes a new one."
    ),
    errors.QueueFullError: Problem(429, "The queue is full.", "Send again when it is not.", 1.0),
    errors.LeaseLostError: Problem(
        409, "The delivery is not yours any more.", "Whoever gets the message next goes on."
    ),
    # persistence
    errors.PersistenceError: _BUG,
    errors.InvalidArgumentError: Problem(400, "An argument is wrong."),
    errors.ValueTooLargeError: Problem(413, "Too large."),
    errors.TransactionStateError: _BUG,
    errors.WriterStoppedError: _CLOSED,
    errors.ReaderStoppedError: _CLOSED,
    errors.ReadOnlyError: _BUG,
    errors.BatchRejectedError: Problem(409, "The write was refused."),
    errors.VersionConflictError: Problem(
        412, "The version is another one.", "Read again, and decide anew."
    ),
    errors.OffsetOutOfRangeError: Problem(416, "The offset is beyond the end of the log."),
    errors.CommitFailedError: Problem(
        503, "It could not be written.", "It may be sent again.", 1.0
    ),
    errors.StorageFullError: Problem(
        507, "There is no room left on the disk.", "It may be sent again when there is.", 10.0
    ),
    errors.CommitUnknownError: Problem(
        500,
        "It cannot be told whether this was written.",
        "Read it, or send it again with the same Idempotency-Key when the node is back.",
    ),
    errors.StorageIOError: _BROKEN,
    errors.CorruptDataError: Problem(500, "What is stored is damaged.", _OPERATOR),
    errors.SnapshotNotFoundError: Problem(404, "There is no such snapshot."),
    errors.AckedDataLostError: _OPENING,
    errors.DataDirectoryError: _OPENING,
    errors.DataDirectoryLockedError: _OPENING,
    errors.DataDirectoryMissingError: _OPENING,
    errors.ForeignDatabaseError: _OPENING,
    errors.ParticipantFailedError: _BROKEN,
    errors.SchemaVersionError: _OPENING,
    errors.MigrationFailedError: _OPENING,
}


def problem_of(error: MpregError) -> Answer:
    problem = PROBLEMS[next(kind for kind in type(error).__mro__ if kind in PROBLEMS)]
    status = error.status if type(error) is errors.RequestRefusedError else problem.status
    fields = {
        "type": f"urn:mpreg:error:{type(error).__name__}",
        "title": problem.title,
        "status": status,
        "error": type(error).__name__,
        "data_state": error.data_state,
    }
    if problem.shows_message:
        # Whether it was done, ``data_state`` says.
        is_away = isinstance(error, errors.NodeUnreachableError)
        fields["detail"] = str(error.args[0]) if is_away else error.without_call
    if problem.advice:
        fields["advice"] = problem.advice
    return Answer(value=fields, status=status, headers=_headers(problem, error))


def unexpected(incident: str) -> Answer:
    """Of a bug; ``incident`` is in the log as well."""
    answer = problem_of(errors.UnexpectedError(incident))
    return Answer(
        value={**answer.value, "incident": incident}, status=answer.status, headers=answer.headers
    )


def _headers(problem: Problem, error: MpregError) -> dict[str, str]:
    headers = {"content-type": PROBLEM_TYPE}
    if problem.retry_after_seconds is not None:
        headers["retry-after"] = str(math.ceil(problem.retry_after_seconds))
    if isinstance(error, errors.UnauthorizedError):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, errors.RequestRefusedError) and error.allowed:
        headers["allow"] = error.allowed
    if isinstance(error, errors.VersionConflictError):
        headers["x-mpreg-version"] = str(error.found_version)
    if isinstance(error, errors.OffsetOutOfRangeError):
        headers["x-mpreg-next-offset"] = str(error.next_offset)
    return headers
