from deploy.configuration import PAGE, SETTINGS, render


def test_the_page_of_settings_is_current() -> None:
    page = PAGE.read_text()

    assert render(page) == page, "run make docs"
    assert all(f"<!-- settings:{service} -->" in page for service in SETTINGS)
