"""Django admin, for administrators of the installation: to look at people, and to unlock them; no more."""

from __future__ import annotations

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from accounts.actions import unlock_user
from accounts.models import User


@admin.register(User)
class UserAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # it has no parameters when it runs
    list_display = ["email", "name", "last_login", "locked", "is_active", "is_superuser"]
    search_fields = ["email", "name"]
    fields = [
        "email",
        "name",
        "date_joined",
        "last_login",
        "unlocked_at",
        "is_active",
        "is_superuser",
    ]
    actions = ["unlock"]

    @admin.display(boolean=True)
    def locked(self, user: User) -> bool:
        return user.is_locked

    @admin.action(description="Unlock", permissions=["view"])
    def unlock(self, request: HttpRequest, users: QuerySet[User]) -> None:
        for user in users:
            unlock_user(user, by=request.user, reason="in Django admin")  # type: ignore[arg-type]
        messages.success(request, f"Unlocked: {', '.join(user.email for user in users)}.")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return False
