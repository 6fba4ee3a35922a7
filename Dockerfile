# Two images with the steps of `make`:  docker build --target serve -t naiseki-serve .     (or train)
# The base is slim: the torch and faiss-gpu wheels bring CUDA, the host brings the driver.
# Without a GPU: --build-arg FAISS=cpu --build-arg TORCH_INDEX=<an index with CPU builds of torch>

FROM python:3.11-slim AS dependencies
ARG FAISS=gpu
ARG TORCH_INDEX=
WORKDIR /opt/naiseki
RUN python -m venv .venv
ENV PATH=/opt/naiseki/.venv/bin:$PATH
COPY constraints.txt constraints.hashes ./
COPY deploy/download_hashes.py deploy/
RUN python -m pip install --no-cache-dir --disable-pip-version-check --report /tmp/torch.json --constraint constraints.txt \
        ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
# Without the packages: what is installed here changes only with the pins, and code is copied below.
COPY pyproject.toml README.md ./
RUN python -m pip install --no-cache-dir --disable-pip-version-check --report /tmp/run.json --constraint constraints.txt ".[$FAISS]"
RUN python -I -S deploy/download_hashes.py check /tmp/torch.json /tmp/run.json
# By number in USER: Kubernetes cannot see that a name is not root.
RUN useradd --system --uid 10001 --home-dir /nonexistent naiseki \
    && install --directory --owner naiseki --group naiseki /data
# Everything that is written goes to /data, or to /tmp, so the root file system may be read-only.
ENV HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NAISEKI_STORE=/data/store \
    NAISEKI_DATA=/data/service \
    NAISEKI_CACHE=/data/cache
VOLUME /data

FROM dependencies AS train
COPY model_store model_store
COPY offline offline
RUN python -m compileall -q model_store offline && python -m model_store.faiss_install
USER 10001
ENTRYPOINT ["python", "-m", "offline"]
CMD ["--help"]

FROM dependencies AS serve
COPY model_store model_store
COPY app app
RUN python -m compileall -q model_store app && python -m model_store.faiss_install
USER 10001
# Reachable from outside the container, so the service refuses to start until NAISEKI_API_KEYS and NAISEKI_ADMIN_KEYS are set.
ENV NAISEKI_HOST=0.0.0.0 \
    NAISEKI_PORT=8000
EXPOSE 8000
# Alive, not ready: a service that waits for its first version is healthy, and must not be restarted for it.
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ['NAISEKI_PORT']}/livez\", timeout=2)"]
CMD ["python", "-m", "app"]
