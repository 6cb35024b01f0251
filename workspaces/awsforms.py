"""What is typed to connect an account of AWS."""

from __future__ import annotations

import re
from typing import Any

from django import forms

from portal.clouds.aws.options import ROLE

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")  # S3, "General purpose bucket naming rules"
_TABLE = re.compile(r"[A-Za-z0-9_.-]{3,255}")  # DynamoDB, "Naming rules"
_REGION = re.compile(r"[a-z]{2}(-[a-z]+){1,3}-[0-9]{1,2}")
_PLAIN = {"autocapitalize": "none", "spellcheck": "false", "autocomplete": "off", "class": "mono"}


class ManualForm(forms.Form):
    """What somebody has made in their account, by hand."""

    role = forms.CharField(label="Role ARN", max_length=620, widget=forms.TextInput(attrs=_PLAIN))
    bucket = forms.CharField(label="S3 bucket", max_length=63, widget=forms.TextInput(attrs=_PLAIN))
    table = forms.CharField(label="DynamoDB table", max_length=255, widget=forms.TextInput(attrs=_PLAIN))
    region = forms.CharField(
        label="Region of both", max_length=40, widget=forms.TextInput(attrs={**_PLAIN, "class": "w-m mono"})
    )

    def clean_role(self) -> str:
        role: str = self.cleaned_data["role"]
        if not ROLE.fullmatch(role):
            raise forms.ValidationError("A role is written like arn:aws:iam::123456789012:role/name.")
        return role

    def clean_bucket(self) -> str:
        bucket: str = self.cleaned_data["bucket"]
        if not _BUCKET.fullmatch(bucket) or ".." in bucket:
            raise forms.ValidationError("A bucket has 3 to 63 small letters, digits, dots and -.")
        return bucket

    def clean_table(self) -> str:
        table: str = self.cleaned_data["table"]
        if not _TABLE.fullmatch(table):
            raise forms.ValidationError("A table has 3 to 255 letters, digits and _ . -.")
        return table

    def clean_region(self) -> str:
        region: str = self.cleaned_data["region"]
        if not _REGION.fullmatch(region):
            raise forms.ValidationError("That is no region of AWS. One is called like us-east-1.")
        return region


class KeyForm(forms.Form):
    """Never filled in again, whatever was typed: not after a mistake either."""

    key = forms.CharField(label="Access key ID", max_length=128)
    secret = forms.CharField(label="Secret access key", max_length=128)
    token = forms.CharField(
        label="Session token",
        max_length=4096,
        required=False,
        help_text="Only of a key that has one: temporary ones do.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for field in self.fields.values():
            field.widget = forms.PasswordInput(attrs={"autocomplete": "off", "class": "mono"})
