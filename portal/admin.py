"""What staff see under /admin/: read mostly, because what the ledger and actions own is changed by them alone.

`site` takes only what is registered with it by name, so that a package's own admin pages never show up by themselves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from allauth.account.decorators import secure_admin_login
from allauth.mfa.utils import is_mfa_enabled
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import unquote
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.core.paginator import Paginator
from django.db import models, transaction
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.functional import cached_property
from django.utils.html import format_html, format_html_join
from django.utils.http import url_has_allowed_host_and_scheme, urlencode
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import capfirst
from django.utils.timezone import localtime

from portal.errors import PortalError
from portal.states import Badge
from portal.tasks import registry

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
    TabularInline = admin.TabularInline[Any, Any]
    PaginatorBase = Paginator[Any]
else:
    ModelAdmin, TabularInline, PaginatorBase = admin.ModelAdmin, admin.TabularInline, Paginator

MOST_AT_ONCE = 100  # rows that one action may be done to


class StaffSite(admin.AdminSite):
    """For `is_staff` alone, signed in as everybody is: with the lock-out and the second factor of the sign-in page."""

    site_title = f"{settings.PORTAL_NAME} staff"
    site_header = f"{settings.PORTAL_NAME} staff"
    index_title = "What there is"

    def has_permission(self, request: HttpRequest) -> bool:
        return super().has_permission(request) and not _needs_second_factor(request)

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Not a page of its own: the sign-in page, or on to what was asked for, or to setting up a second factor."""
        return secure_admin_login(self._let_in)(request)  # type: ignore[no-any-return]

    def _let_in(self, request: HttpRequest) -> HttpResponse:
        if _needs_second_factor(request):
            messages.info(request, "The staff pages ask for a second factor. Set one up first.")
            return redirect("mfa_index")
        asked = request.GET.get(REDIRECT_FIELD_NAME, "")
        ours = url_has_allowed_host_and_scheme(asked, {request.get_host()}, require_https=request.is_secure())
        return redirect(asked if ours else reverse("admin:index"))

    def get_urls(self) -> list[Any]:
        """Without Django's way to "view on site", which goes by the ids of any table, those of libraries too."""
        return [url for url in super().get_urls() if getattr(url, "name", "") != "view_on_site"]

    def password_change(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        return redirect("account_change_password")

    def password_change_done(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        return redirect("account_change_password")


def _needs_second_factor(request: HttpRequest) -> bool:
    return settings.STAFF_SECOND_FACTOR and not is_mfa_enabled(request.user)


site = StaffSite()


class BoundedPaginator(PaginatorBase):
    """Counts up to MOST rows and no further, so that a page of a large table costs what one of a small table does."""

    MOST = 2_000

    @cached_property
    def _counted(self) -> int:
        rows = self.object_list
        return rows.order_by()[: self.MOST + 1].count() if isinstance(rows, models.QuerySet) else len(rows)

    @cached_property
    def count(self) -> int:
        return min(self._counted, self.MOST)

    @property
    def more(self) -> bool:
        """Whether there are more rows than are counted. Those are found by searching and filtering."""
        return self._counted > self.MOST


class StaffAdmin(ModelAdmin):
    """A table that staff read. `fields` names what is shown: a column that is not named, such as a secret, never is.

    `changeable` are those that may be changed. What is changed is recorded in the audit, with what it was before.
    `search_fields` are lookups, tried as they stand: name those that an index answers, or that are cheap to try on
    all rows. `narrows` are lookups that other pages link to.
    """

    changeable: ClassVar[Sequence[str]] = ()
    narrows: ClassVar[Sequence[str]] = ()
    ordering = ("-pk",)
    sortable_by: ClassVar[tuple[str, ...]] = ()
    list_per_page = 20
    list_max_show_all = 0
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    paginator = BoundedPaginator

    def has_module_permission(self, request: HttpRequest) -> bool:
        return site.has_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return site.has_permission(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(self.changeable) and site.has_permission(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        assert self.fields is not None
        return [str(name) for name in self.fields if name not in self.changeable]

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """Only what the page offers: a filter on a secret's column would tell it letter by letter."""
        filters = {one if isinstance(one, str) else getattr(one, "parameter_name", None) for one in self._filters()}
        return lookup in self.narrows or lookup in filters or lookup.split("__")[0] in filters

    def _filters(self) -> Iterable[Any]:
        return (one[0] if isinstance(one, tuple | list) else one for one in self.list_filter)

    def get_search_results(
        self, request: HttpRequest, queryset: models.QuerySet[Any], search_term: str
    ) -> tuple[models.QuerySet[Any], bool]:
        """By the beginning of a name, or by the id that stands in an address of the portal."""
        term = search_term.strip()
        if not term:
            return queryset, False
        found = Q()
        for lookup in self.search_fields:
            found |= Q(**{str(lookup): term.lower() if "email" in str(lookup) else term})
        names = {field.name for field in self.opts.get_fields()}
        if "uuid" in names:
            with contextlib.suppress(ValueError):
                found |= Q(uuid=UUID(term))
        return queryset.filter(found), False

    @admin.display(description=mark_safe('<input type="checkbox" id="action-toggle" aria-label="Select all">'))
    def action_checkbox(self, obj: Any) -> SafeString:
        """As Django's own, which renders a template for each row."""
        words = '<input type="checkbox" name="{}" value="{}" class="action-select" aria-label="Select {}">'
        return format_html(words, ACTION_CHECKBOX_NAME, obj.pk, obj)

    def view_on_site(self, obj: Any) -> str | None:
        """Straight to its page in the portal, where there is one."""
        return obj.get_absolute_url() if hasattr(obj, "get_absolute_url") else None

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        title = capfirst(self.opts.verbose_name_plural)
        try:
            return super().changelist_view(request, {"title": title, **(extra_context or {})})
        except (ValueError, OverflowError) as error:  # a filter with a number that is none, or no year
            raise Http404 from error

    def history_view(self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None) -> Any:
        """What the audit says of it: there is one record of what was done, not two."""
        row = self.get_object(request, unquote(object_id))
        if row is None:
            raise Http404
        uuid = getattr(row, "uuid", None)
        of = {"subject": uuid} if uuid else {"kind": self.opts.verbose_name, "subject_name": str(row)[:254]}
        query = urlencode({f"{name}__exact": str(value) for name, value in of.items()})
        return redirect(f"{reverse('admin:accounts_auditevent_changelist')}?{query}")

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """Nothing: `save_model` has recorded it."""

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """Nothing: `save_model` has recorded it."""

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Only what was changed is written: a page that was open for long takes nothing back."""
        if not change:
            super().save_model(request, obj, form, change)
            self.record("created", obj, request, after=_said(form.cleaned_data))
        elif form.changed_data:
            obj.save(update_fields=form.changed_data)
            before = _said({name: form.initial.get(name) for name in form.changed_data})
            self.record("changed", obj, request, before, _said({n: form.cleaned_data[n] for n in form.changed_data}))

    def record(
        self,
        verb: str,
        row: models.Model,
        request: HttpRequest,
        before: dict[str, Any] | None = None,
        after: dict[str, Any] | None = None,
    ) -> None:
        organization, workspace = place_of(row)
        registry.audit(
            verb, row, organization=organization, workspace=workspace, by=request.user, before=before, after=after
        )

    def do_to_each(
        self, request: HttpRequest, rows: models.QuerySet[Any], do: Callable[[Any], object], done: str
    ) -> None:
        """Do one thing to each row that was chosen, each in a transaction of its own, and say how it went."""
        chosen = list(rows[: MOST_AT_ONCE + 1])
        if len(chosen) > MOST_AT_ONCE:
            messages.error(request, f"Nothing was done: choose at most {MOST_AT_ONCE} at once.")
            return
        worked = 0
        for row in chosen:
            try:
                with transaction.atomic():
                    do(row)
                worked += 1
            except PortalError as error:
                messages.error(request, f"{row}: {error.message}")
        if worked:
            messages.success(request, f"{done}: {worked}.")


def place_of(row: Any) -> tuple[Any, Any]:
    """The organization and the workspace that a row belongs to, by the way that its queryset knows."""
    rows: Any = type(row)._default_manager.all()
    workspace = _follow(row, getattr(rows, "workspace_path", None))
    return (workspace.organization if workspace else _follow(row, getattr(rows, "organization_path", None))), workspace


def _follow(row: Any, path: str | None) -> Any:
    if path is None:
        return None
    for name in path.split("__") if path else ():
        row = getattr(row, name)
    return row


def _said(values: dict[str, Any]) -> dict[str, Any]:
    plain = (bool, int, float, str, list, dict, type(None))
    return {name: value if isinstance(value, plain) else str(value) for name, value in values.items()}


class ReadOnlyInline(TabularInline):
    """A few rows that belong to the one above, to look at."""

    template = "admin/edit_inline/readonly.html"
    extra = 0
    can_delete = False

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        assert self.fields is not None
        return [str(name) for name in self.fields]

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return site.has_permission(request)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def minute(at: datetime | None) -> str:
    """For a column. Django's own way of writing times costs a list more than the database does."""
    return f"{localtime(at):%Y-%m-%d %H:%M}" if at else "-"


def shown(badge: Badge) -> SafeString:
    return format_html('<span class="state {}">{}</span>', badge.look, badge.word)


def list_link(words: str, model: str, **narrow: Any) -> SafeString:
    """A link to the list of another table, narrowed, e.g. list_link("Members", "accounts.membership", user__id=3)."""
    address = reverse(f"admin:{model.replace('.', '_')}_changelist")
    query = "&".join(f"{name}__exact={value}" for name, value in narrow.items())
    return format_html('<a href="{}?{}">{}</a>', address, query, words)


def list_links(lists: dict[str, str], **narrow: Any) -> SafeString:
    """Several of them, from words to model."""
    links = [(list_link(words, model, **narrow),) for words, model in lists.items()]
    return format_html_join(" · ", "{}", links)


def portal_link(page: str, uuid: UUID) -> SafeString:
    """A link to a page of the portal itself, which asks for the same roles as ever: staff have none by being staff."""
    return format_html(
        '<a href="{}">Its page in the portal</a> (for members of its workspace)', reverse(page, args=[uuid])
    )
