"""Ports and variables of the local stack."""

import pytest

from deploy.local import environment, table
from deploy.local.environment import Layout
from deploy.local.errors import StackError
from deploy.local.home import Home


def layout(tmp_path, **environ):
    home = Home(root=tmp_path)
    return Layout(home=home, ports=environment.ports(environ), password="secret", environ=environ)


def test_default_ports_are_those_of_the_contract():
    ports = environment.ports({})

    assert {name: ports[name] for name in ("scheduler", "extractor", "indexer", "llm_gateway")} == {
        "scheduler": 7401,
        "extractor": 7402,
        "indexer": 7403,
        "llm_gateway": 7404,
    }
    assert [ports[f"{name}_metrics"] for name in environment.SERVICES] == [9401, 9402, 9403, 9404]
    assert (ports["postgres"], ports["valkey"], ports["qdrant"], ports["traces"]) == (7432, 7479, 7434, 7417)


def test_the_base_moves_all_ports_and_a_variable_moves_one():
    ports = environment.ports({"SCRISTILL_PORT_BASE": "20000", "INDEXER_PORT": "31000"})

    assert (ports["scheduler"], ports["scheduler_metrics"], ports["indexer"]) == (20001, 22001, 31000)


def test_two_processes_cannot_have_one_port():
    with pytest.raises(StackError, match="have the same port 7401"):
        environment.ports({"INDEXER_PORT": "7401"})


@pytest.mark.parametrize("value", ["0", "65536", "-1", "x"])
def test_what_is_no_port_is_refused(value):
    with pytest.raises(StackError, match="SCHEDULER_PORT"):
        environment.ports({"SCHEDULER_PORT": value})


def test_services_find_each_other_and_their_stores(tmp_path):
    variables = layout(tmp_path, SCRISTILL_PORT_BASE="20000").variables()

    assert variables["EXTRACTOR_SCHEDULER_ADDRESS"] == "127.0.0.1:20001"
    assert variables["INDEXER_QDRANT_URL"] == "http://127.0.0.1:20034"
    assert variables["LLM_GATEWAY_REDIS_URL"] == "redis://:secret@127.0.0.1:20079/0"
    assert variables["SCHEDULER_DATABASE_URL"] == "postgresql://scristill:secret@127.0.0.1:20032/scristill"


def test_what_the_caller_has_set_stands(tmp_path):
    mine = layout(tmp_path, LLM_GATEWAY_REDIS_URL="redis://mine:6379/0")

    assert mine.variables()["LLM_GATEWAY_REDIS_URL"] == "redis://mine:6379/0"


def test_an_engine_that_nobody_uses_is_left_out(tmp_path):
    elsewhere = layout(
        tmp_path, LLM_GATEWAY_REDIS_URL="redis://mine:6379/0", OTEL_EXPORTER_OTLP_ENDPOINT="http://jaeger:4317"
    )

    assert [process.name for process in table.engines(elsewhere)] == ["postgres", "qdrant"]
    gateway = next(process for process in table.services(elsewhere) if process.name == "llm_gateway")
    assert gateway.needs == ()


def test_an_engine_with_one_user_left_runs(tmp_path):
    assert layout(tmp_path, SCHEDULER_DATABASE_URL="postgresql://mine/db").runs_engine("postgres")


def test_variables_exported_from_the_stack_do_not_turn_its_engines_off(tmp_path):
    exported = layout(tmp_path).variables()

    assert all(layout(tmp_path, **exported).runs_engine(name) for name in environment.ENGINE_VARIABLES)


def test_the_provider_key_reaches_the_gateway_alone(tmp_path):
    processes = table.process_table(layout(tmp_path, LLM_GATEWAY_OPENAI_API_KEY="sk"))

    assert [process.name for process in processes if "LLM_GATEWAY_OPENAI_API_KEY" in process.environment] == [
        "llm_gateway"
    ]


def test_services_start_after_their_migrations_and_the_table_is_in_order_of_start(tmp_path):
    processes = table.process_table(layout(tmp_path))
    position = {process.name: index for index, process in enumerate(processes)}

    assert all(position[need] < position[process.name] for process in processes for need in process.needs)
    assert "scheduler-migrate" in processes[position["scheduler"]].needs


def test_passwords_are_not_in_representations(tmp_path):
    assert "secret" not in repr(layout(tmp_path))
    assert "secret" not in repr(table.process_table(layout(tmp_path)))
