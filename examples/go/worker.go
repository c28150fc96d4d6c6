// A Lovage worker with nothing but Go's standard library: one case for each kind of answer. It registers itself at LOVAGE_URL
// as "go" for the tasks "ex.*", listens on PORT, and takes only calls that Lovage signed.
package main

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

var secret = make([]byte, 32) // Our own. Several processes behind one worker would share it.

func env(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func send(method, url, key, body string) {
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		log.Fatal(err)
	}
	request.Header = http.Header{"Content-Type": {"application/json"}, "Authorization": {"Bearer " + key}}
	response, err := http.DefaultClient.Do(request)
	if err == nil {
		err = response.Body.Close()
	}
	if err != nil || response.StatusCode >= 300 {
		log.Print(method, " ", url, ": ", err, response)
	}
}

// isGenuine tells whether Lovage sent this within the last five minutes (Standard Webhooks).
func isGenuine(header http.Header, body []byte) bool {
	stamp := header.Get("Webhook-Timestamp")
	seconds, _ := strconv.ParseInt(stamp, 10, 64) // 0 is too old
	mac := hmac.New(sha256.New, secret)
	fmt.Fprintf(mac, "%s.%s.%s", header.Get("Webhook-Id"), stamp, body)
	ours := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	for _, given := range strings.Fields(header.Get("Webhook-Signature")) {
		if hmac.Equal([]byte(given), []byte(ours)) {
			return time.Since(time.Unix(seconds, 0)).Abs() < 5*time.Minute
		}
	}
	return false
}

func serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if !isGenuine(r.Header, body) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	var call struct {
		Task     string
		Args     []json.RawMessage
		Children []struct{ Result float64 }
	}
	json.Unmarshal(body, &call)
	sum := 0.0
	for _, arg := range call.Args {
		number, _ := strconv.ParseFloat(string(arg), 64)
		sum += number
	}
	w.Header().Set("Content-Type", "application/json")
	switch resumed := r.Header.Get("Lovage-Resume") == "1"; {
	case call.Task == "ex.add": // The answer is the result.
		fmt.Fprint(w, sum)
	case call.Task == "ex.later": // 202: the result is reported to the URL of the attempt. It may be reported again.
		w.Header().Set("Lovage-Lease", "1m")
		w.WriteHeader(http.StatusAccepted)
		go send("POST", r.Header.Get("Lovage-Attempt-Url")+"/complete", "", fmt.Sprint(sum))
	case call.Task == "ex.steps": // A stream of lines: progress, and at the end the result.
		w.Header().Set("Content-Type", "application/x-ndjson")
		for step := 1; step <= int(sum); step++ {
			fmt.Fprintf(w, "{\"progress\": {\"step\": %d}}\n", step)
			w.(http.Flusher).Flush()
		}
		fmt.Fprintf(w, "{\"result\": %v}\n", sum)
	case call.Task == "ex.total" && resumed: // Called again: all children are final.
		for _, child := range call.Children {
			sum += child.Result
		}
		fmt.Fprint(w, sum)
	case call.Task == "ex.total": // Starts a task for each pair.
		w.Header().Set("Content-Type", "application/vnd.lovage.outcome+json")
		tasks := []any{}
		for _, pair := range call.Args {
			tasks = append(tasks, map[string]any{"task": "ex.add", "args": pair})
		}
		json.NewEncoder(w).Encode(map[string]any{"outcome": "spawn", "tasks": tasks, "then": "wait"})
	default: // ex.refuse. 422: it would fail again, so it is not tried again.
		w.WriteHeader(http.StatusUnprocessableEntity)
		json.NewEncoder(w).Encode(map[string]string{"type": "Refused", "message": fmt.Sprintf("cannot take %s", call.Args)})
	}
}

func main() {
	port := env("PORT", "8000")
	if _, err := rand.Read(secret); err != nil {
		log.Fatal(err)
	}
	signing := "whsec_" + base64.StdEncoding.EncodeToString(secret)
	worker := fmt.Sprintf(`{"url": "http://127.0.0.1:%s/", "tasks": ["ex.*"], "signing": "%s"}`, port, signing)
	go send("PUT", env("LOVAGE_URL", "http://127.0.0.1:8275")+"/v1/workers/go", os.Getenv("LOVAGE_KEY"), worker)
	log.Fatal(http.ListenAndServe("127.0.0.1:"+port, http.HandlerFunc(serve))) // a call that came before is tried again
}
