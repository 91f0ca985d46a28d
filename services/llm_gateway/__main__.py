"""`python -m services.llm_gateway`."""

from services.llm_gateway.bootstrap import bootstrap, checks
from services.llm_gateway.settings import LlmGatewaySettings
from services.shared.command import run
from services.shared.service import ServiceDefinition

if __name__ == "__main__":
    run(ServiceDefinition(name="llm_gateway", settings=LlmGatewaySettings, bootstrap=bootstrap, checks=checks))
