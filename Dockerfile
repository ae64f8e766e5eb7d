# The daemon as a user of its own. Participants reach it through the volume:
#
#     docker run -v sysmem:/run/sysmem --group-add … sysmem
#
# Descriptors of memory cross containers by the sockets in /run/sysmem like everything else does.
FROM python:3.13-slim

RUN groupadd --system --gid 950 sysmem \
 && useradd --system --uid 950 --gid sysmem --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin sysmem \
 && install --directory --owner=sysmem --group=sysmem --mode=0750 /run/sysmem

COPY . /src
RUN python -m pip install --no-cache-dir /src && rm -rf /src

VOLUME /run/sysmem
ENV SYSMEM_RUNTIME_DIR=/run/sysmem
USER sysmem

# A Sync round trip; says that the daemon accepts, serves and answers.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["sysmemctl", "ping"]

ENTRYPOINT ["sysmemd", "--log-format", "json"]
# Participants are in the group sysmem.
CMD ["--mode", "0660"]
