"""What is measured while the service runs: Prometheus, one namespace, one registry per app."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

NAMESPACE = "naiseki"
SECONDS = tuple(round(0.00025 * 1.5**step, 8) for step in range(27))  # 0.25 ms to 9.5 s
INSTANTS = tuple(round(0.00001 * 2.0**step, 6) for step in range(24))  # 10 us to 84 s
SHARES = tuple(step / 10 for step in range(11))
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TOKENS = tuple(2**power for power in range(4, 16))
STAGES = ("queue", "encode", "search", "rank")


@dataclass(frozen=True, slots=True)
class StageSeconds:
    """The stage histograms of one version under one label, looked up once and not per request."""

    queue: Histogram
    encode: Histogram
    search: Histogram
    rank: Histogram
    impressions: Counter


@dataclass(frozen=True, slots=True)
class _Counted(Collector):
    name: str
    help_text: str
    label: str
    values: Callable[[], Mapping[str, int]]
    kind: type[CounterMetricFamily | GaugeMetricFamily] = CounterMetricFamily

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        family = self.kind(f"{NAMESPACE}_{self.name}", self.help_text, labels=(self.label,))
        for value, count in self.values().items():
            family.add_metric((value,), count)
        yield family


class Metrics:
    """Collectors are attributes. Series of a version go when it is unloaded (`forget`)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(namespace=NAMESPACE, registry=self.registry)
        self.request_seconds = self._histogram(
            "request_seconds", "From the first byte to the last", ("route",), SECONDS
        )
        self.requests = self._counter("requests", "Answers by status", ("route", "status"))
        self._stages = {
            stage: self._histogram(f"{stage}_seconds", f"Time of a request in {stage}", ("version", "label"), SECONDS)
            for stage in STAGES
        }
        self.batch_size = self._histogram("batch_size", "Entries answered by one batch", (), SIZES)
        self.batch_tokens = self._histogram("batch_tokens", "Tokens that one batch encoded", (), TOKENS)
        self.encoded = self._counter("encoded_histories", "Histories encoded (equal ones of a batch count once)", ())
        self.rejects = self._counter("rejects", "Requests refused", ("reason",))
        self.dropped = self._counter("dropped_entries", "Entries dropped before compute: their client had gone", ())
        self.expired = self._counter("expired_entries", "Entries dropped before compute: their deadline had passed", ())
        self.fallbacks = self._counter(
            "fallbacks", "Answers with popular items, or (overloaded) by the light encoder", ("reason",)
        )
        self.failed_batches = self._counter("failed_batches", "Batches that raised and ran one by one", ())
        self.thread_restarts = self._counter("inference_thread_restarts", "Restarts of the inference thread", ())
        self.swaps = self._counter("swaps", "Loads of a version by outcome", ("outcome",))
        self.load_seconds = self._histogram(
            "load_phase_seconds", "Phases of a load", ("phase",), tuple(0.05 * 2.0**step for step in range(14))
        )
        self.publish_seconds = self._histogram("publish_seconds", "The step that puts a routing in place", (), INSTANTS)
        self.follow_seconds = self._histogram(
            "follow_seconds",
            "From knowing that another live version is wanted to its answers; resident: it was in memory already",
            ("resident",),
            INSTANTS,
        )
        self.label_failed = self._gauge("label_failed", "1 while what a label wants cannot be served here", ("label",))
        self.version_bytes = self._gauge("version_memory_bytes", "What a version holds in memory", ("version",))
        self.shadow_agreement = self._histogram(
            "shadow_agreement", "Share of an answer's items that the shadow version gives too", ("version",), SHARES
        )
        self.shadow_copies = self._counter(
            "shadow_copies", "Sampled live requests, by what the shadow did", ("outcome",)
        )
        self.version_state = self._gauge("version_state", "1 for the state that a version is in", ("version", "state"))
        self.version_info = self._gauge("version_info", "Versions in memory", ("version", "family", "items", "dim"))
        self.generation = self._gauge("labels_generation", "Generation of the labels", ("view",))
        self.degraded = self._gauge("degraded", "1 while another version than the wanted one answers", ())
        self.impressions = self._counter("impressions", "Answers served", ("version", "label"))
        self.clicks = self._counter("clicks", "Items clicked in an answer, each once", ("version", "label"))
        self.clicks_not_counted = self._counter(
            "clicks_not_counted", "Events that name an answer and are no click: late, repeated, unknown", ("reason",)
        )
        self.feedback_dropped = self._counter("feedback_dropped", "Counts that did not reach Redis", ("reason",))

    def watch(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """A gauge that asks when it is scraped."""
        Gauge(name, help_text, namespace=NAMESPACE, registry=self.registry).set_function(value)

    def count(self, name: str, help_text: str, label: str, values: Callable[[], Mapping[str, int]]) -> None:
        """A counter by one label that somebody else counts."""
        self.registry.register(_Counted(name, help_text, label, values))

    def measure(self, name: str, help_text: str, label: str, values: Callable[[], Mapping[str, int]]) -> None:
        """A gauge by one label that somebody else keeps."""
        self.registry.register(_Counted(name, help_text, label, values, GaugeMetricFamily))

    @lru_cache(maxsize=64)  # noqa: B019 - lives as long as the app; `forget` empties it
    def stages(self, version: str, label: str) -> StageSeconds:
        seconds = {stage: histogram.labels(version, label) for stage, histogram in self._stages.items()}
        return StageSeconds(**seconds, impressions=self.impressions.labels(version, label))

    def forget(self, version: str) -> None:
        """Removes the series of a version that is no longer in memory; its state stays."""
        self.stages.cache_clear()
        of_versions = (self.impressions, self.version_info, self.version_bytes, self.clicks, self.shadow_agreement)
        for collector in (*self._stages.values(), *of_versions):
            collector.remove_by_labels({"version": version})

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def _histogram(self, name: str, help_text: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, help_text, labels, namespace=NAMESPACE, registry=self.registry, buckets=buckets)

    def _counter(self, name: str, help_text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, help_text, labels, namespace=NAMESPACE, registry=self.registry)

    def _gauge(self, name: str, help_text: str, labels: tuple[str, ...]) -> Gauge:
        return Gauge(name, help_text, labels, namespace=NAMESPACE, registry=self.registry)
