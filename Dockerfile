# A server of one model, on a CPU. NOT BUILT by anybody who wrote it: there was no Docker on that machine. docs/container.md says how
# to build it, and what to look at first if that fails.
FROM python:3.12-slim AS build
# A compiler for the kernels; without one densekit computes the same as torch operators, slower.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/densekit
ENV PATH=/opt/densekit/bin:$PATH
# Without CUDA: a tenth of the size.
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch torchvision
WORKDIR /source
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY src ./src
ARG EXTRAS=serve,export,hub
RUN pip install --no-cache-dir ".[${EXTRAS}]"

FROM python:3.12-slim
# What torch's and the kernels' libraries link to.
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 densekit
COPY --from=build /opt/densekit /opt/densekit
ENV PATH=/opt/densekit/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/home/densekit/.cache/huggingface
USER densekit
WORKDIR /home/densekit
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["densekit"]
# Every address, as it is the container's own network; which of the host's can reach it is said by `docker run -p`.
CMD ["serve", "fashion-mnist", "--host", "0.0.0.0", "--port", "8000"]
