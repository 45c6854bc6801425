"""A scripted model on loopback, for the real clients of agents: no vendor, no key, no network.

    python model.py SCRIPT.json --log LOG.jsonl --port-file PORT

    POST /v1/messages                              Anthropic Messages, streamed as SSE         (Claude Code, OpenCode)
    POST /v1/responses                             OpenAI Responses, streamed as SSE           (Codex)
    POST /v1/chat/completions                      OpenAI Chat Completions, streamed as SSE    (OpenCode and others)
    POST /v1beta/models/M:streamGenerateContent    Gemini, streamed as SSE; :generateContent   (Gemini CLI)

The script is a list of steps, taken in order, one for each request that offers tools. Side requests, such as the one
for a title, offer none and get "ok". A step is one of

    {"text": "…"}                     the turn ends with these words
    {"tool": "REGEX", "input": {…}}   a call of the first offered tool whose name matches

and may have

    "expect": "REGEX"                 in the request by now; else the log says "missing", and the turn ends
    "when": "REGEX"                   in the last user content; the step waits for such a request
    "until": "PATH"                   answered when this file exists: a model that thinks

A string in "text" or "input" may hold {{REGEX}}: the first group of its last match in the request. So a model answers
the id of the mail that it was shown. The log has a line for each request: the tools, the text of all content, the step.
"""

import argparse
import gzip
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Json = dict[str, Any]


class Script:
    """The steps that are left. One lock: clients send side requests at the same time."""

    def __init__(self, steps: list[Json], log: Path) -> None:
        self._steps, self._log, self._lock, self._count = steps, log, threading.Lock(), 0

    def play(self, record: Json, offered: list[Any]) -> Json:
        """Return the step for a request, and log both."""
        with self._lock:
            step = self._step(record)
            self._count += 1
            record.update(n=self._count, played=step, time=time.time(), offered=offered)
            self._write(record)
        while "until" in step and not os.path.exists(step["until"]):
            time.sleep(0.01)
        return step

    def _step(self, record: Json) -> Json:
        if not record["tools"]:
            return {"text": "ok"}
        matching = (n for n, step in enumerate(self._steps) if re.search(step.get("when", ""), record["last"]))
        found = next(matching, None)
        if found is None:
            return {"text": "MODEL: the script is over"}
        step: Json = _filled(self._steps.pop(found), record["text"])
        if not re.search(step.get("expect", ""), record["text"]):
            record["missing"] = step["expect"]
            return {"text": f"MODEL: expected {step['expect']}"}
        if "tool" in step:
            name = next((tool for tool in record["tools"] if re.search(step["tool"], tool)), None)
            if name is None:
                record["missing"] = f"tool {step['tool']}"
                return {"text": f"MODEL: no tool {step['tool']}"}
            step["tool"] = name
        return step

    def note(self, record: Json) -> None:
        """Log a request that is for no model."""
        with self._lock:
            self._write(record)

    def _write(self, record: Json) -> None:
        with self._log.open("a") as log:
            log.write(json.dumps(record) + "\n")


def _filled(value: Any, text: str) -> Any:
    """The step, each {{REGEX}} in its strings filled in from the request."""
    if isinstance(value, str):

        def fill(hole: re.Match[str]) -> str:
            found = list(re.finditer(hole[1], text))
            return found[-1][found[-1].re.groups and 1] if found else f"?{hole[1]}?"

        return re.sub(r"\{\{(.*?)\}\}", fill, value)
    if isinstance(value, list):
        return [_filled(each, text) for each in value]
    return {key: _filled(each, text) for key, each in value.items()} if isinstance(value, dict) else value


def _texts(value: Any) -> Iterator[str]:
    """All strings in a JSON value, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)


class Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    script: Script

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self._json({})

    def do_GET(self) -> None:
        models = [{"id": "mock", "object": "model", "display_name": "mock", "type": "model"}]
        self._json({"data": models, "object": "list", "has_more": False, "models": []} if "models" in self.path else {})

    def do_POST(self) -> None:
        data = self._body()
        try:
            asked = json.loads(data or b"{}")
        except ValueError:
            asked = {}
        path = self.path.split("?")[0]
        if path.endswith("/messages"):
            self._anthropic(asked)
        elif path.endswith("/count_tokens"):
            self._json({"input_tokens": 100})
        elif path.endswith("/responses"):
            self._responses(asked)
        elif path.endswith("/chat/completions"):
            self._chat(asked)
        elif "enerateContent" in path:
            self._gemini(asked, stream="stream" in path)
        elif path.endswith(":countTokens"):
            self._json({"totalTokens": 100})
        else:
            self.script.note({"path": path, "other": True})
            self._json({})

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline().strip() or b"0", 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            data = self.rfile.read(int(self.headers.get("content-length") or 0))
        encoding = self.headers.get("content-encoding")
        if encoding == "zstd":
            return subprocess.run(["zstd", "-dc"], input=data, capture_output=True, check=True).stdout
        return gzip.decompress(data) if encoding == "gzip" else data

    # The formats of the vendors

    def _anthropic(self, asked: Json) -> None:
        tools = [tool.get("name", "") for tool in asked.get("tools") or []]
        messages = asked.get("messages", [])
        step = self._step(asked, tools, asked.get("system"), messages, messages[-2:])
        id, model, reason = f"msg_{time.time_ns()}", asked.get("model", "mock"), "end_turn"
        if "tool" in step:
            block = {"type": "tool_use", "id": f"toolu_{time.time_ns()}", "name": step["tool"], "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(step.get("input", {}))}
            whole, reason = {**block, "input": step.get("input", {})}, "tool_use"
        else:
            block, delta = {"type": "text", "text": ""}, {"type": "text_delta", "text": step["text"]}
            whole = {"type": "text", "text": step["text"]}
        usage = {"input_tokens": 1, "output_tokens": 1, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
        answer = {
            "id": id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "stop_sequence": None,
            "usage": usage,
        }
        if not asked.get("stream"):
            self._json({**answer, "content": [whole], "stop_reason": reason})
            return
        self._sse(
            ("message_start", {"message": {**answer, "content": [], "stop_reason": None}}),
            ("content_block_start", {"index": 0, "content_block": block}),
            ("content_block_delta", {"index": 0, "delta": delta}),
            ("content_block_stop", {"index": 0}),
            ("message_delta", {"delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage}),
            ("message_stop", {}),
        )

    def _responses(self, asked: Json) -> None:
        tools: list[str] = []
        space: dict[str, str] = {}
        freeform: set[str] = set()
        for tool in asked.get("tools") or []:
            if tool.get("type") == "namespace":  # it groups the tools of an MCP server
                for inner in tool.get("tools", []):
                    tools.append(inner["name"])
                    space[inner["name"]] = tool["name"]
                continue
            tools.append(tool.get("name") or tool.get("type", ""))
            if tool.get("type") == "custom":
                freeform.add(tools[-1])
        given = asked.get("input", [])
        given = given if isinstance(given, list) else [given]
        step = self._step(asked, tools, asked.get("instructions"), given, given[-3:])
        id, call = f"resp_{time.time_ns()}", f"call_{time.time_ns()}"
        item: Json
        if "tool" in step and step["tool"] in freeform:
            item = {"type": "custom_tool_call", "id": f"c{call}", "call_id": call, "name": step["tool"]}
            item |= {"input": step.get("input", ""), "status": "completed"}
        elif "tool" in step:
            item = {"type": "function_call", "id": f"f{call}", "call_id": call, "name": step["tool"]}
            item |= {"arguments": json.dumps(step.get("input", {})), "status": "completed"}
            if step["tool"] in space:
                item["namespace"] = space[step["tool"]]
        else:
            content = [{"type": "output_text", "text": step["text"], "annotations": []}]
            item = {"type": "message", "id": f"m_{time.time_ns()}", "role": "assistant", "status": "completed"}
            item["content"] = content
        usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
        usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}  # type: ignore[dict-item]
        self._sse(
            ("response.created", {"response": {"id": id, "status": "in_progress"}}),
            ("response.output_item.added", {"output_index": 0, "item": item}),
            ("response.output_item.done", {"output_index": 0, "item": item}),
            ("response.completed", {"response": {"id": id, "status": "completed", "output": [item], "usage": usage}}),
        )

    def _chat(self, asked: Json) -> None:
        tools = [tool.get("function", {}).get("name", "") for tool in asked.get("tools") or []]
        messages = asked.get("messages", [])
        step = self._step(asked, tools, "", messages, messages[-1:])
        base = {"id": f"c_{time.time_ns()}", "object": "chat.completion.chunk", "created": 1, "model": "mock"}
        delta: Json = {"role": "assistant", "content": step.get("text")}
        if "tool" in step:
            call = {"index": 0, "id": f"call_{time.time_ns()}", "type": "function"}
            called = {"name": step["tool"], "arguments": json.dumps(step.get("input", {}))}
            delta = {"role": "assistant", "tool_calls": [{**call, "function": called}]}
        reason = "tool_calls" if "tool" in step else "stop"
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        if not asked.get("stream"):
            choice = {"index": 0, "message": delta, "finish_reason": reason}
            self._json({**base, "object": "chat.completion", "choices": [choice], "usage": usage})
            return
        chunks = (
            {**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
            {**base, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}], "usage": usage},
        )
        self._raw("".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n")

    def _gemini(self, asked: Json, *, stream: bool) -> None:
        functions = [f for tool in asked.get("tools") or [] for f in tool.get("functionDeclarations", [])]
        contents = asked.get("contents", [])
        names = [function.get("name", "") for function in functions]
        step = self._step(asked, names, asked.get("systemInstruction"), contents, contents[-1:])
        part: Json = {"text": step.get("text")}
        if "tool" in step:
            part = {"functionCall": {"name": step["tool"], "args": step.get("input", {})}}
        elif asked.get("generationConfig", {}).get("responseMimeType") == "application/json":
            part = {"text": json.dumps({"reasoning": "mock", "next_speaker": "user", "model_choice": "flash"})}
        candidate = {"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}
        usage = {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}
        answer = {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "mock"}
        if stream:
            self._raw(f"data: {json.dumps(answer)}\r\n\r\n")
        else:
            self._json(answer)

    # Answers

    def _step(self, asked: Json, tools: list[str], system: Any, content: Any, last: Any) -> Json:
        record = {"path": self.path.split("?")[0], "tools": tools, "system": "\n".join(_texts(system or ""))}
        record |= {"text": "\n".join(_texts(content)), "last": "\n".join(_texts(last))}
        return self.script.play(record, asked.get("tools") or [])

    def _sse(self, *events: tuple[str, Json]) -> None:
        self._raw("".join(f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n" for name, data in events))

    def _raw(self, text: str, kind: str = "text/event-stream") -> None:
        data = text.encode()
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _json(self, value: Any) -> None:
        self._raw(json.dumps(value), "application/json")


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("script", type=Path)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--port-file", type=Path, required=True)
    given = parser.parse_args()
    Handler.script = Script(json.loads(given.script.read_text()), given.log)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    part = given.port_file.with_suffix(".part")
    part.write_text(str(server.server_address[1]))
    part.rename(given.port_file)
    server.serve_forever()


if __name__ == "__main__":
    main()
