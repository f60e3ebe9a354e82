// `client URL EXPERIMENT`: Go's net/http with its default client.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
)

func read(answer *http.Response, err error, status int) []byte {
	if err != nil {
		log.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != status {
		log.Fatal(answer.Status, string(body), err)
	}
	return body
}

func post(url string, status int, body string) {
	answer, err := http.Post(url, "application/json", strings.NewReader(body))
	read(answer, err, status)
}

func main() {
	root := os.Args[1] + "/v1/"
	experiment := root + os.Args[2]
	post(root+"create", 201, fmt.Sprintf(`{"experiment_id":"%s","arms":["a","b"]}`, os.Args[2]))
	for i := 0; i < 20; i++ {
		var draw struct {
			DecisionID string `json:"decision_id"`
		}
		answer, err := http.Get(experiment + "/draw")
		if err := json.Unmarshal(read(answer, err, 200), &draw); err != nil {
			log.Fatal(err)
		}
		post(experiment+"/update", 200, fmt.Sprintf(`{"decision_id":"%s","reward":1}`, draw.DecisionID))
	}
	post(experiment+"/update_batch", 200, `{"updates":[{"arm_id":"a","reward":1},{"arm_id":"b","reward":1}]}`)
}
