# Worker, trainer and inference for NVIDIA GPUs (they also run on CPUs), and the command line.
#
#   docker build -f deploy/images/worker.Dockerfile -t mindforge-worker:0.1.0 .
#
# Run with the NVIDIA container runtime; the host needs a driver for CUDA 13.
FROM ubuntu:24.04 AS build
WORKDIR /src
COPY deploy/install_deps.sh deploy/
RUN deploy/install_deps.sh build
COPY cmake cmake
RUN cmake/fetch_libtorch.sh --cuda
COPY . .
RUN deploy/bundle_gpu.sh /opt/mindforge

FROM ubuntu:24.04
COPY deploy/install_deps.sh /tmp/deploy/
# The bundle takes LibTorch and CUDA's libraries from torch's wheels; Python itself never runs.
ENV PIP_NO_CACHE_DIR=1
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN /tmp/deploy/install_deps.sh python \
    && python3 -m venv /opt/torch \
    && /opt/torch/bin/python -m pip install --disable-pip-version-check torch==2.11.0 \
    && ln -s /opt/torch/lib/python3*/site-packages /opt/torch/site \
    && rm -rf /tmp/deploy /var/lib/apt/lists/*
COPY --from=build /opt/mindforge /opt/mindforge
COPY LICENSE /usr/share/doc/mindforge/
ENV PATH=/opt/mindforge/bin:$PATH \
    LD_LIBRARY_PATH=/opt/mindforge/lib:/opt/torch/site/torch/lib:/opt/torch/site/nvidia/cu13/lib:/opt/torch/site/nvidia/nccl/lib:/opt/torch/site/nvidia/cudnn/lib:/opt/torch/site/nvidia/cusparselt/lib:/opt/torch/site/nvidia/nvshmem/lib
RUN useradd --system --uid 10001 --user-group --home-dir /var/lib/mindforge --create-home mindforge \
    && install -d -o mindforge -g mindforge /data
USER 10001:10001
WORKDIR /var/lib/mindforge
VOLUME /var/lib/mindforge /data
EXPOSE 7071 9465 9466
CMD ["mindforge-worker", "--data-dir", "/var/lib/mindforge"]
