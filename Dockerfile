FROM python:3.12-slim AS build
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY scheduler_service scheduler_service
RUN python -m venv /opt/scheduler && /opt/scheduler/bin/pip install --no-cache-dir .

FROM python:3.12-slim
COPY --from=build /opt/scheduler /opt/scheduler
ENV PATH=/opt/scheduler/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# config.yaml and jobs/ are mounted here; the folder is the user's own, for an SQLite file beside them.
RUN useradd --system --uid 10001 --home-dir /app --create-home scheduler
WORKDIR /app
USER 10001
EXPOSE 8080
# In exec form: SIGTERM of `docker stop` arrives at the service, which drains.  Give it the time that it may take:
# `docker stop --time 30`, a little more than service.shutdown_grace.
STOPSIGNAL SIGTERM
ENTRYPOINT ["scheduler-service"]
CMD ["run"]
