"""Eight emulated CPU devices, set before anything imports jax; and a clean gin for every test.

Compiling is most of what the tests take, so it goes without optimisation; what is computed stays, up to rounding."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
for name, value in (("xla_force_host_platform_device_count", 8), ("xla_backend_optimization_level", 0)):
    if name not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --{name}={value}"

import gin  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture(autouse=True)
def no_bindings():
    gin.clear_config()
    yield
    gin.clear_config()
