"""Which settings a running service cannot take over from a new configuration."""

from __future__ import annotations

from scheduler_service.config.configuration import Config
from scheduler_service.config.settings import SECTIONS

TAKEN_OVER = ("service.timezone", "service.shutdown_grace")  # beside jobs and defaults


def restart_needed(old: Config, new: Config) -> tuple[str, ...]:
    """Return the names of settings that differ and take effect only after a restart, as in `workers.threads`.

    Secrets are compared, too; their values are not shown.
    """
    names = []
    for section, model in SECTIONS.items():
        for field, info in model.model_fields.items():
            name = f"{section}.{info.alias or field}"
            if field == "hidden" or name in TAKEN_OVER:
                continue
            if getattr(getattr(old, section), field) != getattr(getattr(new, section), field):
                names.append(name)
    return tuple(names)
