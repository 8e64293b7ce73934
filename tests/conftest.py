"""Settings for all tests."""

from hypothesis import HealthCheck, settings

# How fast a machine is just now says nothing about the code.
settings.register_profile("kairos", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kairos")
