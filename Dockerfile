# syntax=docker/dockerfile:1
# hydrakit in a container:
#
#   docker build -t hydrakit .                                # CPU
#   docker build -t hydrakit:cuda --build-arg TORCH=cu130 .   # CUDA 13.0; pytorch.org lists the others
#   docker run --rm -v "$PWD/data:/data:ro" -v "$PWD:/work" -u "$(id -u):$(id -g)" hydrakit \
#       run --strategy hydra --datasets brain,prostatex
#
# --gpus all before the name of the image gives it the GPUs. docs/install.md has more, and Apptainer.
# Checked with hadolint; it has not been built by those who wrote it.

ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS wheel
WORKDIR /source
COPY . .
# The backend is the one of constraints.txt, and nothing else is needed to build.
RUN pip install --no-cache-dir --constraint constraints.txt build hatchling \
    && python -m build --no-isolation --wheel --outdir /wheel

FROM python:${PYTHON}-slim
ARG TORCH=cpu
ARG EXTRAS=codecs,get,onnx,xlsx
# First what is large and seldom changes, then the packages, then hydrakit itself.
RUN --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    pip install --no-cache-dir --constraint /constraints.txt --index-url "https://download.pytorch.org/whl/${TORCH}" torch
RUN --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --no-cache-dir --constraint /constraints.txt "$(echo /wheel/*.whl)[${EXTRAS}]"

# Any user may start it (docker run -u, Apptainer), so that files in /work belong to that user.
RUN useradd --create-home --uid 1000 hydrakit \
    && install --directory --mode=1777 /cache \
    && install --directory --owner=hydrakit /data /work
USER 1000
WORKDIR /work
ENV HYDRAKIT_DATA=/data HYDRAKIT_CACHE=/cache PYTHONUNBUFFERED=1 USER=hydrakit
ENTRYPOINT ["hydrakit"]
CMD ["--help"]
