# syntax=docker/dockerfile:1
# khabar serve in a container: for a CPU, or with --build-arg DEVICE=cu130 for a GPU.
# DEVICE names the folder of https://download.pytorch.org/whl/ that torch comes from.
ARG BASE=python:3.11.13-slim-bookworm

FROM ${BASE} AS build
ARG DEVICE=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/khabar
ENV PATH=/opt/khabar/bin:${PATH}
WORKDIR /source
# torch by itself and first: it is most of the image, and changes least.
COPY requirements.txt ./
RUN pip install --index-url "https://download.pytorch.org/whl/${DEVICE}" "$(grep '^torch==' requirements.txt)"
COPY pyproject.toml README.md LICENSE ./
COPY khabar khabar
COPY models models
COPY inference inference
COPY training training
RUN pip install --constraint requirements.txt '.[serve]'

FROM ${BASE}
COPY --from=build /opt/khabar /opt/khabar
# Only the model inside or a mounted folder is loaded; HOME is where a read-only container can write.
ENV PATH=/opt/khabar/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    HF_HUB_OFFLINE=1 \
    KHABAR_HOST=0.0.0.0 \
    KHABAR_PORT=8000
USER 10001:10001
EXPOSE 8000
ENTRYPOINT ["khabar"]
CMD ["serve"]
