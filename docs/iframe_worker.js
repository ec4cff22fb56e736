// Copyright (C) 2026 The anomalib-clipad authors
// SPDX-License-Identifier: Apache-2.0
// Search where the site is opened as a file, from which browsers start no worker: its script runs in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const inside = frame.contentWindow;
      const waiting = [];
      this.post = (message) => waiting.push(message);
      const answer = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      inside.postMessage = answer;
      inside.importScripts = (...urls) => Promise.all(urls.map((each) => load(new URL(each, url).href)));
      const load = (src) => new Promise((done) => {
        const script = frame.contentDocument.createElement("script");
        script.src = src;
        script.onload = done;
        frame.contentDocument.body.append(script);
      });
      load(url).then(() => {
        this.post = (data) => inside.dispatchEvent(new MessageEvent("message", { data }));
        waiting.forEach(this.post);
      });
    }
    postMessage(data) { this.post(data); }
    terminate() {}
  };
}
