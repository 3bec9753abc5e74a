# Coordinator and command line, without CUDA.
#
#   docker build -f deploy/images/coordinator.Dockerfile -t mindforge-coordinator:0.1.0 .
FROM debian:12-slim AS build
WORKDIR /src
COPY deploy/install_deps.sh deploy/
RUN deploy/install_deps.sh build
# CMake wants LibTorch to be there, though these two programs never link it.
COPY cmake cmake
RUN cmake/fetch_libtorch.sh
COPY . .
RUN cmake --preset release -DMINDFORGE_TESTS=OFF \
    && cmake --build build/release --target mindforge-coordinator mindforge \
    && strip build/release/bin/mindforge-coordinator build/release/bin/mindforge

FROM debian:12-slim
COPY deploy/install_deps.sh /tmp/deploy/
RUN /tmp/deploy/install_deps.sh run && rm -rf /tmp/deploy /var/lib/apt/lists/*
COPY --from=build /src/build/release/bin/mindforge-coordinator /src/build/release/bin/mindforge /usr/local/bin/
COPY LICENSE /usr/share/doc/mindforge/
RUN useradd --system --uid 10001 --user-group --home-dir /var/lib/mindforge --create-home mindforge
USER 10001:10001
WORKDIR /var/lib/mindforge
VOLUME /var/lib/mindforge
EXPOSE 7070 9464
CMD ["mindforge-coordinator", "--data-dir", "/var/lib/mindforge"]
