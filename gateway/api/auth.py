"""Who is calling: `Authorization: Bearer hk_...`."""

from gateway.api.problems import Problem
from gateway.api.routing import Call
from gateway.storage.apps import App, Apps
from gateway.storage.endpoints import Endpoints

SCHEME = "bearer"  # compared without case (RFC 9110, 11.1)


class Authenticator:
    """Finds the app a request comes from."""

    def __init__(self, apps: Apps, endpoints: Endpoints) -> None:
        self._apps = apps
        self._endpoints = endpoints

    async def app_of(self, request: Call) -> App:
        """The calling app.

        Raises:
            Problem: 401.
        """
        headers = request.headers.getall("Authorization", ())
        scheme, _, key = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
        if scheme.lower() != SCHEME:
            raise Problem("unauthorized", "send Authorization: Bearer <key>, once", param="Authorization")
        app = self._apps.cached(key)
        if app is None:
            app = await self._apps.authenticate(key)
            if app is None:
                raise Problem("unauthorized", "this key is unknown or revoked", param="Authorization")
            self._endpoints.learn(app.app_id, app.webhook_url)
        return app
