"""python -m app [serve]           serves until SIGTERM or Ctrl-C; settings come from NAISEKI_* variables
python -m app import-events FILE  fills histories from a log of events
python -m app export-items FILE   writes the live version's items with all changes since, for the next training
python -m app forget-items        drops changes of items that every labelled version knows by itself
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from app.logs import log_as_json
from app.settings import Settings, SettingsRefused
from model_store.faiss_install import WrongFaissInstall, check_one_faiss


def main(arguments: Sequence[str]) -> int:
    command, *rest = arguments or ["serve"]
    # The imports below take seconds (torch, polars); a refusal, or the other command, should not wait for them.
    if command == "import-events":
        from app import import_events

        return int(import_events.main(rest) or 0)
    if command == "export-items":
        from app import export_items

        return export_items.main(rest)
    if command == "forget-items":
        from app import forget_items

        return forget_items.main(rest)
    if command != "serve" or rest:
        sys.stderr.write(__doc__ or "")
        return 0 if command in ("-h", "--help") else 2
    try:
        check_one_faiss()
        settings = Settings.read(os.environ)
    except (SettingsRefused, WrongFaissInstall) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    log_as_json(settings.log_level)

    from app.server import serve

    return serve(settings)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
