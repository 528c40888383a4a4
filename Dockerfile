# syntax=docker/dockerfile:1
# The command line, on a CPU:   docker build -t monai-n2v .
# On an NVIDIA GPU:             docker build -t monai-n2v:cuda --build-arg DEVICE=cuda .
# A MONAI Label server:         docker build -t monai-n2v-label --target label .
# docs/how-to/containers.md tells how they are run. The weights of the prior are inside.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS base
ARG DEVICE=cpu
ENV VIRTUAL_ENV=/opt/monai_n2v
ENV PATH=$VIRTUAL_ENV/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    # An image may be run by any user, also by one without a name or a home.
    HOME=/tmp USER=n2v MPLCONFIGDIR=/tmp/matplotlib \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /src
# PyPI's torch brings CUDA; that for CPUs has an index of its own.
RUN --mount=type=bind,target=/src \
    python -m venv "$VIRTUAL_ENV" && \
    if [ "$DEVICE" = cpu ]; then \
        pip install -c constraints.txt --index-url https://download.pytorch.org/whl/cpu torch; \
    fi

FROM base AS label
# torchvision must be of the same kind as torch.
RUN --mount=type=bind,target=/src,rw \
    if [ "$DEVICE" = cpu ]; then \
        pip install -c constraints-label.txt --index-url https://download.pytorch.org/whl/cpu --no-deps torchvision; \
    fi && \
    pip install -c constraints-label.txt -r tests/label/requirements.txt . && \
    pip install -c constraints-label.txt --no-deps monailabel pydicom-seg torchvision
# What is trained lies in the app's folder: keep it in a volume.
RUN python -m monai_n2v.label init /label_app && mkdir /studies && chown -R 1000 /label_app /studies
WORKDIR /studies
USER 1000
VOLUME /label_app
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/info/')"]
ENTRYPOINT ["monailabel", "start_server", "--app", "/label_app", "--studies", "/studies"]

FROM base AS program
RUN --mount=type=bind,target=/src,rw pip install -c constraints.txt .
WORKDIR /data
USER 1000
ENTRYPOINT ["monai-n2v"]
CMD ["--help"]
