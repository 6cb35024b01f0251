"""Forms speak in one voice."""

from __future__ import annotations

import pytest
from django import forms

from accounts.forms import AddEmailForm, ChangePasswordForm, LoginForm, ResetPasswordForm
from tests.web import words

FOREIGN = ("This field is required", "Enter a valid", "Select a valid", "Ensure this value", "This password is")


class Form(forms.Form):
    name = forms.CharField(max_length=5)
    email = forms.EmailField()
    count = forms.IntegerField(min_value=1, max_value=64)
    role = forms.ChoiceField(choices=[("a", "A")])
    day = forms.DateField()


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({}, ["Fill this in."] * 5),
        (
            {"name": "too long", "email": "nobody", "count": "65", "role": "z", "day": "soon"},
            [
                "At most 5 characters; these are 8.",
                "This is no e-mail address: it looks like name@example.org.",
                "At most 64.",
                "This cannot be chosen here.",
                "Write a date like 2026-11-24.",
            ],
        ),
    ],
)
def test_what_is_wrong_is_said_in_our_words(sent, said):
    form = Form(sent)
    assert [error for errors in form.errors.values() for error in errors] == said


def test_the_sign_in_page_has_our_words_too(client, bob):
    page = words(client.post("/accounts/login/", {"login": "", "password": ""}))
    assert "Fill this in." in page
    wrong = words(client.post("/accounts/login/", {"login": bob.email, "password": "not the one it is"}))
    assert "The e-mail address or the password is not right." in wrong
    for sentence in (*FOREIGN, "Email", "are not correct", "Remember Me"):
        assert sentence not in page + wrong


@pytest.mark.parametrize("form", [AddEmailForm, ChangePasswordForm, LoginForm, ResetPasswordForm])
def test_fields_have_one_name_everywhere(rf, bob, form):
    made = form() if form in (LoginForm, ResetPasswordForm) else form(user=bob)
    labels = " ".join(str(field.label) for field in made.fields.values())
    assert "Email" not in labels
    assert not any("placeholder" in field.widget.attrs for field in made.fields.values())
