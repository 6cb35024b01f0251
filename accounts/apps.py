from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "accounts"

    def ready(self) -> None:
        from accounts import audit, signin, tokens, watch
        from accounts.models import Organization
        from portal.tasks import registry

        signin.connect()
        registry.tell(audit=audit.record, caller=tokens.acting)
        registry.add_live(Organization)
        registry.add_watchers(watch.AccountsWatcher)
