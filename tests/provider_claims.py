"""What the provider of the tests says of a person."""

from oauth2_provider.oauth2_validators import OAuth2Validator


class Claims(OAuth2Validator):  # type: ignore[misc]
    oidc_claim_scope = None

    def get_oidc_claims(self, token, token_handler, request):
        """Of otto, it is said to another client."""
        claims = super().get_oidc_claims(token, token_handler, request)
        return {**claims, "aud": "another client"} if request.user.email.startswith("otto") else claims

    def get_additional_claims(self, request):
        return {
            "email": request.user.email,
            "email_verified": request.user.first_name == "checked",
            "name": request.user.email.split("@")[0].title(),
        }
