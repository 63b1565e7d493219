"""Tasks and channels: acks, mailboxes, actors and their supervisor. No word of storage."""

from mpreg.actors.ack import Ack
from mpreg.actors.actor import (
    Actor,
    ActorState,
    BackingOff,
    NotStarted,
    Running,
    Starting,
    Stopped,
)
from mpreg.actors.beside import run_beside
from mpreg.actors.feed import Feed
from mpreg.actors.mailbox import Mailbox, MailboxStatistics, Message
from mpreg.actors.restart import Decision, Failure, GiveUp, Restart, RestartPolicy
from mpreg.actors.supervisor import PastFailure, Supervisor, SupervisorStatistics

__all__ = [
    "Ack",
    "Actor",
    "ActorState",
    "BackingOff",
    "Decision",
    "Failure",
    "Feed",
    "GiveUp",
    "Mailbox",
    "MailboxStatistics",
    "Message",
    "NotStarted",
    "PastFailure",
    "Restart",
    "RestartPolicy",
    "Running",
    "Starting",
    "Stopped",
    "Supervisor",
    "SupervisorStatistics",
    "run_beside",
]
