"""ZhipuAI's business codes as the simulator answers them: HTTP status and message.

Source: docs.bigmodel.cn/cn/api/api-code. That page does not tie every code to a status; where it does not, the
status here is the one seen in captured answers, else the likeliest.
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson

CODES: Mapping[str, tuple[int, str]] = {
    "500": (500, "内部错误"),
    "1000": (401, "身份验证失败"),
    "1001": (401, "Header 中未收到 Authorization 参数，无法进行身份验证"),
    "1002": (401, "Authorization Token 非法，请确认 Authorization Token 正确传递"),
    "1003": (401, "Authorization Token 已过期，请重新生成/获取"),
    "1004": (401, "通过提供的 Authorization Token 身份验证失败"),
    "1100": (500, "账户读写"),
    "1110": (401, "您的账户当前处于非活动状态，请检查账户信息"),
    "1111": (401, "您的账户不存在"),
    "1112": (429, "您的账户已被锁定，请联系客服解锁"),
    "1113": (429, "您的账户已欠费，请充值后重试"),
    "1120": (500, "无法成功访问您的账户，请稍后重试"),
    "1121": (429, "账户因违规行为已被锁定"),
    "1200": (500, "API 调用错误"),
    "1210": (400, "API 调用参数有误，请检查文档"),
    "1211": (400, "模型不存在，请检查模型代码"),
    "1212": (400, "当前模型不支持该调用方式"),
    "1213": (400, "未正常接收到参数"),
    "1214": (400, "参数非法，请检查文档"),
    "1215": (400, "参数不能同时设置，请检查文档"),
    "1220": (403, "您无权访问该 API"),
    "1221": (404, "该 API 已下线"),
    "1222": (404, "该 API 不存在"),
    "1230": (500, "API 调用流程出错"),
    "1231": (400, "您已有相同 request_id 的请求"),
    "1234": (500, "网络错误，请联系客服"),
    "1261": (400, "Prompt 超长"),
    "1300": (400, "API 调用被策略阻止"),
    "1301": (400, "系统检测到输入或生成内容可能包含不安全或敏感内容，请您避免输入易产生敏感内容的提示语"),
    "1302": (429, "您当前使用该 API 的并发数过高，请降低并发，或联系客服增加限额"),
    "1303": (429, "您当前使用该 API 的频率过高，请降低频率，或联系客服增加限额"),
    "1304": (429, "该 API 已达今日调用次数限额"),
    "1305": (429, "当前 API 请求过多，请稍后重试"),
    "1308": (429, "已达到使用上限，您的限额将在稍后重置"),
    "1309": (429, "您的套餐已到期，请续费后重试"),
    "1310": (429, "已达到每周/每月使用上限"),
    "1311": (429, "当前套餐不包含该模型"),
    "1312": (429, "该模型当前访问量过大，请稍后再试，或使用其他模型"),
    "1313": (429, "已触发公平使用限制"),
}

KEY_CODES = frozenset({"1000", "1001", "1002", "1003", "1004", "1110", "1111", "1112", "1113", "1121"})
"""The codes with which a key can be refused."""

REFUSED_OUTRIGHT = frozenset(code for code, (status, _) in CODES.items() if status < 500)
"""Codes that turn a call away before the model runs, so that no setting ever bills them."""


class RefusalError(Exception):
    """A call that the simulator answers with an error.

    Never leaves the package: `answering.guarded` turns it into the HTTP answer. A `code` of None is a plain
    status without ZhipuAI's body, as a proxy in front of it would send.
    """

    def __init__(self, code: str | None, *, detail: str | None = None, http_status: int | None = None) -> None:
        status, message = CODES.get(code, (500, "")) if code else (429, "")
        super().__init__(detail or message)
        self.code = code
        self.http_status = http_status or status

    def body(self) -> bytes:
        """The body: ZhipuAI's error object, or a plain line if there is no code."""
        if self.code is None:
            return b"Too Many Requests\n" if self.http_status == 429 else b"Service Unavailable\n"
        return error_body(self.code, message=str(self))

    @property
    def content_type(self) -> str:
        return "text/plain" if self.code is None else "application/json"


def error_object(code: str, *, message: str | None = None) -> dict[str, str]:
    """`{"code", "message"}`; the code is a string on the v4 wire."""
    return {"code": code, "message": message or CODES[code][1]}


def error_body(code: str, *, message: str | None = None) -> bytes:
    """`{"error": {"code", "message"}}` as JSON."""
    return orjson.dumps({"error": error_object(code, message=message)})
