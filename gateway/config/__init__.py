"""The configuration: one frozen value, read once at start."""

from gateway.config.reading import ConfigError, load
from gateway.config.sections import (
    Channels,
    ChannelSection,
    Checks,
    Config,
    Embedded,
    Env,
    Notifications,
    OwnChecks,
    Redis,
    Secret,
    Sweep,
    Webhooks,
)

__all__ = [
    "ChannelSection",
    "Channels",
    "Checks",
    "Config",
    "ConfigError",
    "Embedded",
    "Env",
    "Notifications",
    "OwnChecks",
    "Redis",
    "Secret",
    "Sweep",
    "Webhooks",
    "load",
]
