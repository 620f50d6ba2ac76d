FROM python:3.12-slim AS build
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY scheduler_service scheduler_service
RUN pip install --no-cache-dir --target /opt/scheduler .

FROM python:3.12-slim
COPY --from=build /opt/scheduler /opt/scheduler
ENV PATH=/opt/scheduler/bin:$PATH PYTHONPATH=/opt/scheduler PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# config.yaml and jobs/ are mounted here; the folder is the user's own, for an SQLite file beside them:
#   docker run -v ./config.yaml:/app/config.yaml:ro -v ./jobs:/app/jobs:ro scheduler-service
RUN groupadd --gid 10001 scheduler \
    && useradd --uid 10001 --gid 10001 --home-dir /app --no-create-home scheduler \
    && install --directory --owner 10001 --group 10001 /app
WORKDIR /app
USER 10001
EXPOSE 8080
# Whether its threads take their steps; neither a standby nor a database that is away makes it ill.
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 CMD ["scheduler-service", "health"]
# In exec form, so that the SIGTERM of `docker stop` arrives at the service, which drains.  Docker kills after ten
# seconds: `docker stop --time 40` gives it service.shutdown_grace (20 s), kill_after (10 s) and a little more.
STOPSIGNAL SIGTERM
ENTRYPOINT ["scheduler-service"]
CMD ["run"]
