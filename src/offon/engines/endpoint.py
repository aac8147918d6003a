"""Questions to a model behind HTTP: the chat completions that OpenAI, vLLM, SGLang, llama.cpp and others serve."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from offon.errors import EngineError
from offon.types import Sampling

BUSY = (408, 409, 425, 429)  # worth asking again, like every 5xx


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A server's base URL (https://host/v1) and the name under which it serves a model.

    timeout_s    for one answer             retries   further tries after a failure that may pass, with waits of
    wait_s       wait_s, 2 wait_s, ...      at_once   questions in flight
    key_env      the environment variable with the API key; the key itself is in no recipe and no log
    """

    url: str
    model: str
    timeout_s: float = 60.0
    retries: int = 3
    wait_s: float = 1.0
    at_once: int = 16
    key_env: str = "OPENAI_API_KEY"

    def ask(self, questions: Sequence[str], sampling: Sampling) -> list[str | None]:
        """One answer per question; None where none came after all retries. That none came at all stops the run."""
        if not questions:
            return []
        with ThreadPoolExecutor(min(self.at_once, len(questions))) as pool:
            answers = list(pool.map(lambda question: self._answer(question, sampling), questions))
        failures = [answer for answer in answers if isinstance(answer, Exception)]
        if len(failures) == len(answers):
            raise EngineError(
                f"no answer to any of {len(answers)} questions",
                where=self.url,
                why=f"{type(failures[-1]).__name__}: {failures[-1]}",
                fix="is the server running, and the URL its base (it ends in /v1)?",
            )
        return [None if isinstance(answer, Exception) else answer for answer in answers]

    def _answer(self, question: str, sampling: Sampling) -> str | Exception:
        failure: Exception = TimeoutError()
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(self.wait_s * 2 ** (attempt - 1))
            try:
                with urllib.request.urlopen(self._request(question, sampling), timeout=self.timeout_s) as response:
                    return json.load(response)["choices"][0]["message"]["content"]
            except urllib.error.HTTPError as error:
                if error.code not in BUSY and error.code < 500:
                    raise EngineError(
                        f"the server refused: {error.code} {error.reason}",
                        where=f"{self.url}, model {self.model}",
                        why=error.read(300).decode(errors="replace"),
                        fix=f"the URL, the model's name, or the key in {self.key_env}",
                    ) from error
                failure = error
            except (OSError, ValueError, KeyError, IndexError, TypeError) as error:  # no connection, no time, no answer
                failure = error
        return failure

    def _request(self, question: str, sampling: Sampling) -> urllib.request.Request:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
        }
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.key_env):
            headers["Authorization"] = f"Bearer {key}"
        return urllib.request.Request(
            f"{self.url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers, method="POST"
        )
