# The daemon as a user of its own:
#
#     docker build -t sysmem . && docker run -v sysmem:/run/sysmem sysmem
#
# With two participants: examples/containers/compose.yaml. A participant's container gets the volume and the group,
# `-v sysmem:/run/sysmem --group-add 950`. Descriptors of memory cross from one container to another by the sockets in
# /run/sysmem.
FROM python:3.13-slim

RUN groupadd --system --gid 950 sysmem \
 && useradd --system --uid 950 --gid sysmem --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin sysmem \
 && install --directory --owner=sysmem --group=sysmem --mode=0750 /run/sysmem

COPY . /src
RUN python -m pip install --no-cache-dir /src && rm -rf /src

VOLUME /run/sysmem
ENV SYSMEM_RUNTIME_DIR=/run/sysmem
USER sysmem

# A round trip: the daemon accepts, serves and answers.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["sysmemctl", "ping"]

ENTRYPOINT ["sysmemd", "--log-format", "json"]
# Participants are in the group sysmem.
CMD ["--mode", "0660"]
